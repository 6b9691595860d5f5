# Training. In: the grid (RUNS), the corpus manifest, a parent's weights for transfer.
# Out: runs/<run_id>/{recipe.json, metrics.json, curve.csv, validation.csv, model.safetensors,
# config.json, tensorboard/}; checkpoints and logs in checkpoints/<run_id>/; the runs table
# (runs.csv, .parquet) and curves/ of the chosen runs.
#
# Nothing here makes Snakemake train a finished model again: a run's name carries the fingerprint
# of its recipe, so inputs are `ancient`; the checkpoint folder stands in params and survives a
# kill, so the next start goes on from it. Threads and devices are no part of params.
#
# One rule trains on any number of devices. With a profile that describes nodes (profiles/slurm,
# profiles/server) `start` places the ranks, and small runs share a GPU: on Slurm as packs, whose
# jobs leave results where rule train only has to put them in their place (docs/slurm.md).


# Runs tables that differ from the study's own in a choice; a grid trained here has none.
TABLE_VARIANTS = {}


wildcard_constraints:
    # Not their names: see snakefile.Runs.
    run_id="[^/]+",
    pack="[0-9a-f]{12}",


rule recipe:
    input:
        # A run that is to be trained in a pack waits for it; here, because a changed input of a
        # recipe costs nothing, whereas one of rule train would train a finished run again.
        lambda wildcards: snakefile.pack_marker(CLUSTER, wildcards.run_id),
    output:
        f"{OUT}/runs/{{run_id}}/recipe.json",
    log:
        f"{OUT}/logs/recipe/{{run_id}}.log",
    conda:
        "../environment.yml"
    params:
        text=lambda wildcards: snakefile.recipe_text(ALL_RUNS[wildcards.run_id].recipe),
    shell:
        # A shell builtin: hundreds of recipes must not cost hundreds of interpreters.
        "printf '%s\\n' {params.text:q} > {output:q} 2> {log:q}"


rule train:
    input:
        recipe=ancient(f"{OUT}/runs/{{run_id}}/recipe.json"),
        corpus=ancient(f"{CORPUS}/manifest.json"),
        parent=lambda wildcards: parent_metrics(wildcards.run_id),
        trunk=lambda wildcards: trunk_metrics(wildcards.run_id),
    output:
        metrics=f"{OUT}/runs/{{run_id}}/metrics.json",
        curve=f"{OUT}/runs/{{run_id}}/curve.csv",
        validation=f"{OUT}/runs/{{run_id}}/validation.csv",
        weights=f"{OUT}/runs/{{run_id}}/model.safetensors",
        config=f"{OUT}/runs/{{run_id}}/config.json",
    log:
        f"{OUT}/logs/train/{{run_id}}.log",
    priority: lambda wildcards: needs.priority(ALL_RUNS[wildcards.run_id].recipe)
    conda:
        "../environment.yml"
    threads:
        lambda wildcards: (
            CLUSTER.threads(wildcards.run_id)
            if CLUSTER
            else needs.threads(
                ALL_RUNS[wildcards.run_id].recipe, STUDY.execution.threads
            )
        )
    # Resources never make a finished run stale, so all that changes nothing in it stands here.
    resources:
        **(
            CLUSTER.train()
            if CLUSTER
            else dict(
                start="",
                devices=STUDY.execution.devices,
                mem_mb=lambda wildcards: needs.memory_mb(
                    ALL_RUNS[wildcards.run_id].recipe
                ),
            )
        ),
        checkpoint_seconds=STUDY.execution.checkpoint_seconds,
        fork_server=STUDY.execution.fork_server,
        keep="--keep-checkpoint" if STUDY.execution.keep_checkpoints else "",
        layout=snakefile.layout_options(STUDY.execution),
        trunk=lambda wildcards: snakefile.trunk_option(
            trunk_of_run(wildcards.run_id), OUT
        ),
    params:
        checkpoint=f"{OUT}/checkpoints/{{run_id}}",
        parent=lambda wildcards: parent_option(wildcards.run_id),
        # Beside `log:`, which Snakemake deletes at each attempt: here a resumed run's log goes on.
        log=f"{OUT}/checkpoints/{{run_id}}/train.log",
    shell:
        "mkdir -p {params.checkpoint:q} && "
        "{resources.start} python -m plmscale.training.launch"
        " --recipe {input.recipe:q} --corpus $(dirname {input.corpus:q})"
        " --run-dir $(dirname {output.metrics:q}) --checkpoint-dir {params.checkpoint:q}"
        " {params.parent:q} {resources.keep} {resources.layout} {resources.trunk}"
        " --threads {threads} --devices {resources.devices}"
        " --checkpoint-seconds {resources.checkpoint_seconds}"
        " --warm {resources.fork_server}"
        " 2>&1 | tee -a {params.log:q} > {log:q}"


if CLUSTER:

    rule pack_list:
        output:
            f"{OUT}/packs/{{pack}}.runs.json",
        log:
            f"{OUT}/logs/pack_list/{{pack}}.log",
        conda:
            "../environment.yml"
        params:
            text=lambda wildcards: files.canonical_json(
                CLUSTER.packs.list_of(wildcards.pack)
            ),
        shell:
            "printf '%s\\n' {params.text:q} > {output:q} 2> {log:q}"

    # Small runs that share a GPU and a job. Its only output says what became of each of them.
    rule pack:
        input:
            runs=ancient(f"{OUT}/packs/{{pack}}.runs.json"),
            corpus=ancient(f"{CORPUS}/manifest.json"),
            before=lambda wildcards: ancient(
                expand(
                    f"{OUT}/runs/{{run_id}}/metrics.json",
                    run_id=CLUSTER.packs.before(wildcards.pack),
                )
            ),
        output:
            f"{OUT}/packs/{{pack}}.done.json",
        log:
            f"{OUT}/logs/pack/{{pack}}.log",
        priority: 1000
        conda:
            "../environment.yml"
        resources:
            **CLUSTER.pack(),
            checkpoint_seconds=STUDY.execution.checkpoint_seconds,
            keep="--keep-checkpoint" if STUDY.execution.keep_checkpoints else "",
            layout=snakefile.layout_options(STUDY.execution),
        params:
            out=lambda wildcards: OUT,
        shell:
            "{resources.start} python -m plmscale.cluster.packjob --runs {input.runs:q}"
            " --out {params.out:q} --corpus $(dirname {input.corpus:q}) --done {output:q}"
            " --at-once {resources.at_once} {resources.keep} {resources.layout}"
            " --checkpoint-seconds {resources.checkpoint_seconds} > {log:q} 2>&1"


rule collect:
    input:
        metrics=run_files("metrics.json"),
        curves=run_files("curve.csv"),
    output:
        runs=f"{VIEW}/runs.csv",
        parquet=f"{VIEW}/runs.parquet",
        curves=directory(f"{VIEW}/curves"),
    log:
        f"{VIEW}/logs/collect.log",
    conda:
        "../environment.yml"
    script:
        "../scripts/collect.py"
