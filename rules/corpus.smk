# The corpus. In: corpus.sources of the study (a path, or an address with its checksum).
# Out: corpus/manifest.json and shards/, clean/, split/check.json, stats/*.csv.
#
# Inputs that stay are `ancient`: a fresh clone (new dates, same content) builds nothing again.
# But Snakemake neither passes a re-run on through an `ancient` input that exists nor compares the
# params of the jobs behind it. So the name of a source carries its checksum, and each step marks
# what it made with keys/<step>.<hash of all that decides its content>, which the next step asks
# for: after a changed rule that file is missing, and the steps behind it run too.
CORPUS = f"{OUT}/corpus"
KEYS = f"{CORPUS}/keys"
STAMPS = {
    step: f"{KEYS}/{step}.{key[:12]}" for step, key in STUDY.corpus.step_keys().items()
}
SEQKIT = f"file:{workflow.basedir}/rules/wrappers/seqkit"


wildcard_constraints:
    source="|".join(STUDY.corpus.sources),


rule fetch_source:
    output:
        f"{CORPUS}/sources/{{source}}.{{checksum}}.fasta",
    log:
        f"{OUT}/logs/corpus/fetch_{{source}}.{{checksum}}.log",
    wildcard_constraints:
        checksum="[0-9a-f]{12}",
    conda:
        "../environment.yml"
    resources:
        # A checkout elsewhere is no reason to bring anything in again, so no param.
        project=workflow.basedir,
    params:
        # As written in the study: a checkout that moves brings nothing in again.
        place=lambda wildcards: snakefile.places(STUDY.corpus.sources[wildcards.source]),
        sha256=lambda wildcards: STUDY.corpus.sources[wildcards.source].sha256,
    shell:
        "python -m plmscale.corpus fetch {params.place:q} --sha256 {params.sha256:q}"
        " --project {resources.project:q}"
        " --out {output:q} 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule letters:
    input:
        lambda wildcards: ancient(
            f"{CORPUS}/sources/{wildcards.source}."
            f"{STUDY.corpus.sources[wildcards.source].sha256[:12]}.fasta"
        ),
    output:
        fasta=temp(f"{CORPUS}/clean/{{source}}.letters.fasta"),
        counts=f"{CORPUS}/clean/{{source}}.letters.json",
    log:
        f"{OUT}/logs/corpus/letters_{{source}}.log",
    conda:
        "../environment.yml"
    params:
        rule=files.canonical_json(STUDY.corpus.clean.model_dump()),
    shell:
        "python -m plmscale.corpus letters {input:q} --rule {params.rule:q}"
        " --out {output.fasta:q} --counts {output.counts:q}"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule seqkit_length:
    input:
        f"{CORPUS}/clean/{{source}}.letters.fasta",
    output:
        temp(f"{CORPUS}/clean/{{source}}.length.fasta"),
    log:
        f"{OUT}/logs/corpus/seqkit_length_{{source}}.log",
    params:
        command="seq",
        extra=f"--min-len {STUDY.corpus.clean.min_length} --max-len {STUDY.corpus.clean.max_length}"
        " --seq-type protein --remove-gaps --line-width 0",
    wrapper:
        SEQKIT


rule seqkit_rmdup:
    input:
        f"{CORPUS}/clean/{{source}}.length.fasta",
    output:
        fasta=temp(f"{CORPUS}/clean/{{source}}.unique.fasta"),
        dup_num=f"{CORPUS}/clean/{{source}}.duplicates.txt",
    log:
        f"{OUT}/logs/corpus/seqkit_rmdup_{{source}}.log",
    params:
        command="rmdup",
        # Without --only-positive-strand a protein that reads backwards like another is dropped.
        extra="--by-seq --only-positive-strand --seq-type protein --line-width 0",
    wrapper:
        SEQKIT


rule clean:
    input:
        unique=expand(
            f"{CORPUS}/clean/{{source}}.unique.fasta", source=STUDY.corpus.sources
        ),
        lengths=expand(
            f"{CORPUS}/clean/{{source}}.length.fasta", source=STUDY.corpus.sources
        ),
        letters=ancient(
            expand(
                f"{CORPUS}/clean/{{source}}.letters.json", source=STUDY.corpus.sources
            )
        ),
    output:
        fasta=expand(f"{CORPUS}/clean/{{source}}.fasta", source=STUDY.corpus.sources),
        counts=expand(f"{CORPUS}/clean/{{source}}.json", source=STUDY.corpus.sources),
        stamp=touch(STAMPS["clean"]),
    log:
        f"{OUT}/logs/corpus/clean.log",
    conda:
        "../environment.yml"
    params:
        # The order decides which source keeps a sequence that two of them hold.
        sources=list(STUDY.corpus.sources),
        folder=lambda wildcards: f"{CORPUS}/clean",
        stamps=lambda wildcards: KEYS,
    shell:
        # A mark of an older rule must not vouch for these files when the rule comes back.
        "rm -f {params.stamps:q}/clean.* && "
        "python -m plmscale.corpus clean {params.folder:q} --sources {params.sources:q}"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule split:
    input:
        ancient(expand(f"{CORPUS}/clean/{{source}}.fasta", source=STUDY.corpus.sources)),
        ancient(STAMPS["clean"]),
    output:
        check=f"{CORPUS}/split/check.json",
        ids=expand(
            f"{CORPUS}/split/{{source}}.{{part}}.ids",
            source=STUDY.corpus.sources,
            part=["train", "valid"],
        ),
        stamp=touch(STAMPS["split"]),
    log:
        f"{OUT}/logs/corpus/split.log",
    conda:
        "../environment.yml"
    threads: 16
    params:
        sources=list(STUDY.corpus.sources),
        rule=files.canonical_json(STUDY.corpus.split.model_dump()),
        folder=lambda wildcards: CORPUS,
        stamps=lambda wildcards: KEYS,
    shell:
        "rm -f {params.stamps:q}/split.* && "
        "python -m plmscale.corpus split {params.folder:q} --sources {params.sources:q}"
        " --rule {params.rule:q} --threads {threads} 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule shards:
    input:
        ancient(expand(f"{CORPUS}/clean/{{source}}.fasta", source=STUDY.corpus.sources)),
        ancient(f"{CORPUS}/split/check.json"),
        ancient(STAMPS["clean"]),
        ancient(STAMPS["split"]),
    output:
        manifest=f"{CORPUS}/manifest.json",
        stamp=touch(STAMPS["corpus"]),
    log:
        f"{OUT}/logs/corpus/shards.log",
    conda:
        "../environment.yml"
    params:
        corpus=snakefile.corpus_text(STUDY),
        folder=lambda wildcards: CORPUS,
        stamps=lambda wildcards: KEYS,
    shell:
        "rm -f {params.stamps:q}/corpus.* && "
        "python -m plmscale.corpus shards {params.folder:q} --corpus {params.corpus:q}"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule corpus_stats:
    input:
        ancient(f"{CORPUS}/manifest.json"),
        ancient(STAMPS["corpus"]),
    output:
        f"{CORPUS}/stats/lengths.csv",
        f"{CORPUS}/stats/residues.csv",
        f"{CORPUS}/stats/sources.csv",
    log:
        f"{OUT}/logs/corpus/stats.log",
    conda:
        "../environment.yml"
    params:
        folder=lambda wildcards: CORPUS,
        key=STUDY.corpus.key(),
    shell:
        "python -m plmscale.corpus stats {params.folder:q} --write"
        " > {log:q} 2>&1 || {{ cat {log:q} >&2; exit 1; }}"
