# Training. In: the grid (RUNS), the corpus manifest, a parent's weights for transfer.
# Out: runs/<run_id>/{recipe.json, metrics.json, curve.csv, validation.csv, model.safetensors,
# config.json, tensorboard/}; checkpoints and logs in checkpoints/<run_id>/; the runs table
# (runs.csv, .parquet) and curves/ of the chosen runs.
#
# Nothing here makes Snakemake train a finished model again: a run's name carries the fingerprint
# of its recipe, so inputs are `ancient`; the checkpoint folder stands in params and survives a
# kill, so the next start goes on from it. Threads and devices are no part of params.


# Runs tables that differ from the study's own in a choice; a grid trained here has none.
TABLE_VARIANTS = {}


wildcard_constraints:
    run_id="|".join(ALL_RUNS),


rule recipe:
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
        lambda wildcards: needs.threads(
            ALL_RUNS[wildcards.run_id].recipe, STUDY.execution.threads
        )
    # Resources never make a finished run stale, so all that changes nothing in it stands here.
    resources:
        devices=STUDY.execution.devices,
        checkpoint_seconds=STUDY.execution.checkpoint_seconds,
        fork_server=STUDY.execution.fork_server,
        keep="--keep-checkpoint" if STUDY.execution.keep_checkpoints else "",
        layout=snakefile.layout_options(STUDY.execution),
        trunk=lambda wildcards: snakefile.trunk_option(
            trunk_of_run(wildcards.run_id), OUT
        ),
        mem_mb=lambda wildcards: needs.memory_mb(ALL_RUNS[wildcards.run_id].recipe),
    params:
        checkpoint=f"{OUT}/checkpoints/{{run_id}}",
        parent=lambda wildcards: parent_option(wildcards.run_id),
        # Beside `log:`, which Snakemake deletes at each attempt: here a resumed run's log goes on.
        log=f"{OUT}/checkpoints/{{run_id}}/train.log",
    shell:
        "mkdir -p {params.checkpoint:q} && "
        "python -m plmscale.training.launch"
        " --recipe {input.recipe:q} --corpus $(dirname {input.corpus:q})"
        " --run-dir $(dirname {output.metrics:q}) --checkpoint-dir {params.checkpoint:q}"
        " {params.parent:q} {resources.keep} {resources.layout} {resources.trunk}"
        " --threads {threads} --devices {resources.devices}"
        " --checkpoint-seconds {resources.checkpoint_seconds}"
        " --warm {resources.fork_server}"
        " 2>&1 | tee -a {params.log:q} > {log:q}"


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
