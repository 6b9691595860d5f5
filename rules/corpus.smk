# The corpus. In: corpus.sources of the study (a path, or an address with its checksum).
# Out: corpus/manifest.json and shards/, clean/, split/check.json, stats/*.csv.
#
# Inputs are `ancient`: content is pinned by checksums and rules, both in params, so that a fresh
# clone (new dates, same content) builds nothing again and a changed rule does.
CORPUS = f"{OUT}/corpus"
SEQKIT = f"file:{workflow.basedir}/rules/wrappers/seqkit"


rule fetch_source:
    output:
        f"{CORPUS}/sources/{{source}}.fasta",
    log:
        f"{OUT}/logs/corpus/fetch_{{source}}.log",
    params:
        place=lambda wildcards: snakefile.place(STUDY.corpus.sources[wildcards.source], workflow.basedir),
        sha256=lambda wildcards: STUDY.corpus.sources[wildcards.source].sha256,
    shell:
        "{PYTHON} -m plmscale.corpus fetch {params.place:q} --sha256 {params.sha256:q}"
        " --out {output:q} 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule letters:
    input:
        ancient(f"{CORPUS}/sources/{{source}}.fasta"),
    output:
        fasta=temp(f"{CORPUS}/clean/{{source}}.letters.fasta"),
        counts=f"{CORPUS}/clean/{{source}}.letters.json",
    log:
        f"{OUT}/logs/corpus/letters_{{source}}.log",
    params:
        rule=files.canonical_json(STUDY.corpus.clean.model_dump()),
        sha256=lambda wildcards: STUDY.corpus.sources[wildcards.source].sha256,
    shell:
        "{PYTHON} -m plmscale.corpus letters {input:q} --rule {params.rule:q}"
        " --out {output.fasta:q} --counts {output.counts:q}"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule seqkit_length:
    input:
        ancient(f"{CORPUS}/clean/{{source}}.letters.fasta"),
    output:
        temp(f"{CORPUS}/clean/{{source}}.length.fasta"),
    log:
        f"{OUT}/logs/corpus/seqkit_length_{{source}}.log",
    params:
        command="seq",
        extra=f"--min-len {STUDY.corpus.clean.min_length} --max-len {STUDY.corpus.clean.max_length}"
        " --remove-gaps --line-width 0",
    wrapper:
        SEQKIT


rule seqkit_rmdup:
    input:
        ancient(f"{CORPUS}/clean/{{source}}.length.fasta"),
    output:
        fasta=temp(f"{CORPUS}/clean/{{source}}.unique.fasta"),
        dup_num=f"{CORPUS}/clean/{{source}}.duplicates.txt",
    log:
        f"{OUT}/logs/corpus/seqkit_rmdup_{{source}}.log",
    params:
        command="rmdup",
        extra="--by-seq --line-width 0",
    wrapper:
        SEQKIT


rule clean:
    input:
        unique=ancient(expand(f"{CORPUS}/clean/{{source}}.unique.fasta", source=STUDY.corpus.sources)),
        lengths=ancient(expand(f"{CORPUS}/clean/{{source}}.length.fasta", source=STUDY.corpus.sources)),
        letters=ancient(expand(f"{CORPUS}/clean/{{source}}.letters.json", source=STUDY.corpus.sources)),
    output:
        fasta=expand(f"{CORPUS}/clean/{{source}}.fasta", source=STUDY.corpus.sources),
        counts=expand(f"{CORPUS}/clean/{{source}}.json", source=STUDY.corpus.sources),
    log:
        f"{OUT}/logs/corpus/clean.log",
    params:
        # The order decides which source keeps a sequence that two of them hold.
        sources=list(STUDY.corpus.sources),
        folder=f"{CORPUS}/clean",
    shell:
        "{PYTHON} -m plmscale.corpus clean {params.folder:q} --sources {params.sources:q}"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule split:
    input:
        ancient(expand(f"{CORPUS}/clean/{{source}}.fasta", source=STUDY.corpus.sources)),
    output:
        check=f"{CORPUS}/split/check.json",
        ids=expand(
            f"{CORPUS}/split/{{source}}.{{part}}.ids",
            source=STUDY.corpus.sources,
            part=["train", "valid"],
        ),
    log:
        f"{OUT}/logs/corpus/split.log",
    params:
        sources=list(STUDY.corpus.sources),
        rule=files.canonical_json(STUDY.corpus.split.model_dump()),
        folder=CORPUS,
    threads: 64
    shell:
        "{PYTHON} -m plmscale.corpus split {params.folder:q} --sources {params.sources:q}"
        " --rule {params.rule:q} --threads {threads} 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule shards:
    input:
        ancient(expand(f"{CORPUS}/clean/{{source}}.fasta", source=STUDY.corpus.sources)),
        ancient(f"{CORPUS}/split/check.json"),
    output:
        f"{CORPUS}/manifest.json",
    log:
        f"{OUT}/logs/corpus/shards.log",
    params:
        corpus=snakefile.corpus_text(STUDY),
        folder=CORPUS,
    shell:
        "{PYTHON} -m plmscale.corpus shards {params.folder:q} --corpus {params.corpus:q}"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule corpus_stats:
    input:
        ancient(f"{CORPUS}/manifest.json"),
    output:
        f"{CORPUS}/stats/lengths.csv",
        f"{CORPUS}/stats/residues.csv",
        f"{CORPUS}/stats/sources.csv",
    log:
        f"{OUT}/logs/corpus/stats.log",
    params:
        folder=CORPUS,
        # The manifest is `ancient`, so a corpus by other rules must show here.
        key=STUDY.corpus.key(),
    shell:
        "{PYTHON} -m plmscale.corpus stats {params.folder:q} --write"
        " > {log:q} 2>&1 || {{ cat {log:q} >&2; exit 1; }}"
