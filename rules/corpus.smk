# The corpus. In: corpus.sources of the study (files, or addresses with their checksums).
# Out: CORPUS/manifest.json and shards/, split/check.json, stats/*.csv; <study>/corpus, a link to it.
#
# A corpus lies in <results>/corpora/<hash of its sources and rules>, and a file that was brought in
# in corpora/files/<name>.<hash>: so studies with the same sources and rules share one, and a changed
# rule makes another folder instead of a stale file. What decides the content is in these names, so
# inputs are `ancient`, and in params stands only what these names follow from: all else a step is
# told are `resources`, which start no job. Between fetched files and shards all is temporary.
FILES = f"{STUDY.results}/corpora/files"
SOURCES = STUDY.corpus.priority
TRAINED = STUDY.corpus.trained
FILE_NAMES = {name: file_names(STUDY.corpus.sources[name]) for name in SOURCES}
FILE_SOURCE = {file: name for name in SOURCES for file in FILE_NAMES[name]}
EXTRACTED = [name for name in SOURCES if is_extracted(STUDY.corpus.sources[name])]
# Files whose records seqkit counts, too: what it and we have read must be the same.
COUNTED = [
    file for name in SOURCES for file in snakefile.counted(STUDY.corpus.sources[name])
]
SEQKIT = f"file:{workflow.basedir}/rules/wrappers/seqkit"
STORE = ["tokens", "lengths", "hashes", "names", "name_lengths"]


wildcard_constraints:
    source="|".join(SOURCES),
    file="|".join(map(re.escape, FILE_SOURCE)),


rule fetch_file:
    output:
        file=f"{FILES}/{{file}}",
        found=f"{FILES}/{{file}}.json",
    log:
        f"{FILES}/logs/{{file}}.log",
    conda:
        "../environment.yml"
    resources:
        # Where a file lies changes nothing in it, and fetching depends on no other job: so no params.
        source=lambda wildcards: snakefile.source_text(
            STUDY, FILE_SOURCE[wildcards.file]
        ),
        index=lambda wildcards: FILE_NAMES[FILE_SOURCE[wildcards.file]].index(
            wildcards.file
        ),
        project=workflow.basedir,
    shell:
        "python -m plmscale.corpus fetch --source {resources.source:q} --index {resources.index}"
        " --project {resources.project:q} --out {output.file:q} --found {output.found:q}"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule extract_source:
    input:
        lambda wildcards: ancient(
            [f"{FILES}/{file}" for file in FILE_NAMES[wildcards.source]]
        ),
    output:
        temp(f"{CORPUS}/extracted/{{source}}.fasta"),
    log:
        f"{CORPUS}/logs/extract_{{source}}.log",
    conda:
        "../environment.yml"
    threads: 16
    params:
        source=lambda wildcards: snakefile.reading_text(STUDY, wildcards.source),
    shell:
        "python -m plmscale.corpus extract {input:q} --source {params.source:q}"
        " --threads {threads} --out {output:q} 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule clean_source:
    input:
        lambda wildcards: ancient(
            f"{CORPUS}/extracted/{wildcards.source}.fasta"
            if wildcards.source in EXTRACTED
            else [f"{FILES}/{file}" for file in FILE_NAMES[wildcards.source]]
        ),
    output:
        arrays=temp(expand(f"{CORPUS}/clean/{{{{source}}}}/{{array}}.bin", array=STORE)),
        counts=f"{CORPUS}/clean/{{source}}/counts.json",
    log:
        f"{CORPUS}/logs/clean_{{source}}.log",
    conda:
        "../environment.yml"
    threads: 4
    params:
        source=lambda wildcards: snakefile.reading_text(STUDY, wildcards.source),
        rule=files.canonical_json(STUDY.corpus.clean.model_dump()),
    shell:
        "python -m plmscale.corpus clean {input:q} --source {params.source:q}"
        " --rule {params.rule:q} --threads {threads} --out $(dirname {output.counts:q})"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule seqkit_stats:
    input:
        ancient(f"{FILES}/{{file}}"),
    output:
        f"{CORPUS}/clean/seqkit/{{file}}.tsv",
    log:
        f"{CORPUS}/logs/seqkit_{{file}}.log",
    threads: 2
    params:
        command="stats",
        extra="--tabular --seq-type protein",
    wrapper:
        SEQKIT


rule deduplicate:
    input:
        arrays=ancient(
            expand(
                f"{CORPUS}/clean/{{source}}/{{array}}.bin", source=SOURCES, array=STORE
            )
        ),
        counts=ancient(expand(f"{CORPUS}/clean/{{source}}/counts.json", source=SOURCES)),
    output:
        keep=temp(expand(f"{CORPUS}/clean/{{source}}.keep.bin", source=SOURCES)),
        counts=f"{CORPUS}/clean/duplicates.json",
    log:
        f"{CORPUS}/logs/deduplicate.log",
    conda:
        "../environment.yml"
    threads: 4
    params:
        # In the order of priority: it decides which source keeps a sequence that two of them hold.
        sources=SOURCES,
        folder=lambda wildcards: CORPUS,
    shell:
        "python -m plmscale.corpus deduplicate {params.folder:q} --sources {params.sources:q}"
        " --threads {threads} 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule split:
    input:
        ancient(
            expand(
                f"{CORPUS}/clean/{{source}}/{{array}}.bin", source=SOURCES, array=STORE
            )
        ),
        ancient(expand(f"{CORPUS}/clean/{{source}}.keep.bin", source=SOURCES)),
    output:
        temp(
            expand(
                f"{CORPUS}/split/{{source}}.{{what}}.bin",
                source=SOURCES,
                what=["parts", "identity"],
            )
        ),
        ids=expand(
            f"{CORPUS}/split/{{source}}.{{part}}.ids",
            source=SOURCES,
            part=["valid", "test"],
        ),
        check=f"{CORPUS}/split/check.json",
    log:
        f"{CORPUS}/logs/split.log",
    conda:
        "../environment.yml"
    threads: 64
    params:
        sources=SOURCES,
        held_out=STUDY.corpus.held_out,
        rule=files.canonical_json(STUDY.corpus.split.model_dump()),
        folder=lambda wildcards: CORPUS,
    shell:
        "python -m plmscale.corpus split {params.folder:q} --sources {params.sources:q}"
        " --held-out {params.held_out:q} --rule {params.rule:q} --threads {threads} 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule shards:
    input:
        ancient(expand(f"{CORPUS}/clean/{{{{source}}}}/{{array}}.bin", array=STORE)),
        ancient(
            expand(
                f"{CORPUS}/split/{{{{source}}}}.{{what}}.bin",
                what=["parts", "identity"],
            )
        ),
    output:
        f"{CORPUS}/parts/{{source}}.json",
    log:
        f"{CORPUS}/logs/shards_{{source}}.log",
    conda:
        "../environment.yml"
    threads: 4
    params:
        max_residues=STUDY.corpus.shards.max_residues,
        folder=lambda wildcards: CORPUS,
    shell:
        "python -m plmscale.corpus shards {params.folder:q} {wildcards.source:q}"
        " --max-residues {params.max_residues} --threads {threads} --out {output:q}"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule manifest:
    input:
        ancient(expand(f"{CORPUS}/parts/{{source}}.json", source=SOURCES)),
        ancient(expand(f"{CORPUS}/clean/{{source}}/counts.json", source=SOURCES)),
        ancient(f"{CORPUS}/clean/duplicates.json"),
        ancient(f"{CORPUS}/split/check.json"),
        ancient(expand(f"{FILES}/{{file}}.json", file=FILE_SOURCE)),
        ancient(expand(f"{CORPUS}/clean/seqkit/{{file}}.tsv", file=COUNTED)),
    output:
        f"{CORPUS}/manifest.json",
    log:
        f"{CORPUS}/logs/manifest.log",
    conda:
        "../environment.yml"
    resources:
        # Release and licence of a source decide nothing in its shards.
        corpus=snakefile.corpus_text(STUDY),
    params:
        folder=lambda wildcards: CORPUS,
        files=lambda wildcards: FILES,
    shell:
        "python -m plmscale.corpus manifest {params.folder:q} --corpus {resources.corpus:q}"
        " --files {params.files:q} 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"


rule corpus_stats:
    input:
        ancient(f"{CORPUS}/manifest.json"),
    output:
        expand(f"{CORPUS}/stats/{{table}}.csv", table=snakefile.CORPUS_TABLES),
    log:
        f"{CORPUS}/logs/stats.log",
    conda:
        "../environment.yml"
    threads: 4
    params:
        folder=lambda wildcards: CORPUS,
    shell:
        "python -m plmscale.corpus stats {params.folder:q} --write --threads {threads}"
        " > {log:q} 2>&1 || {{ cat {log:q} >&2; exit 1; }}"


# What depends on the study, not on the corpus alone: how often its runs read each source; and the
# place where people look for its corpus. Rerun when the grid's needs change.
rule study_corpus:
    input:
        ancient(f"{CORPUS}/manifest.json"),
    output:
        f"{OUT}/epochs.csv",
    log:
        f"{OUT}/logs/study_corpus.log",
    conda:
        "../environment.yml"
    params:
        corpus=lambda wildcards: CORPUS,
        link=lambda wildcards: f"{OUT}/corpus",
        runs=snakefile.longest_runs_text(ALL_RUNS.values()),
    shell:
        "python -m plmscale.corpus use {params.corpus:q} --link {params.link:q}"
        " --runs {params.runs:q} --epochs {output:q}"
        " 2> {log:q} || {{ cat {log:q} >&2; exit 1; }}"
