# Downstream evaluation (section `downstream:`). In: weights of runs, the corpus, and models and data
# sets that are fetched. Out: downstream/predictions/TASK/MODEL/METHOD-sSEED.parquet, made once, and
# from them downstream/{metrics.csv, metrics.parquet, gains.csv, failures.csv}.
#
# A job never fails for what a task, a model or its data do: failures.csv says so, and the next start
# tries again what failed (`attempt` among the params). Predictions are no output of a rule: a job
# that runs again makes what is missing, or was made by other weights, data or options. No input of an
# evaluation is `ancient`: where such an input is made again, Snakemake overlooks changed params.
STAGE = downstream_plan.Stage(STUDY, ALL_RUNS, RUNS, CORPUS)
DOWN = STAGE.folder


wildcard_constraints:
    task="|".join(STAGE.tasks),
    model="|".join(map(re.escape, STAGE.models)) or "none",


localrules:
    downstream_best,
    downstream_tables,


if not CLUSTER or CLUSTER.fetch_here:

    localrules:
        downstream_fetch,
        downstream_hub,


rule downstream_fetch:
    output:
        f"{DOWN}/done/fetch/{{task}}.json",
    log:
        f"{OUT}/logs/downstream/fetch/{{task}}.log",
    conda:
        "../environment.yml"
    params:
        asked=lambda wildcards: STAGE.asked_data(wildcards.task),
        attempt=lambda wildcards: STAGE.attempt("fetch", wildcards.task),
        out=lambda wildcards: DOWN,
    shell:
        "python -m plmscale.downstream.jobs fetch --asked {params.asked:q} --out {params.out:q}"
        " --done {output:q} > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule downstream_hub:
    output:
        f"{DOWN}/done/hub/{{model}}.json",
    log:
        f"{OUT}/logs/downstream/hub/{{model}}.log",
    conda:
        "../environment.yml"
    params:
        model=lambda wildcards: STAGE.models[wildcards.model].options(),
        attempt=lambda wildcards: STAGE.attempt("hub", wildcards.model),
        out=lambda wildcards: DOWN,
    shell:
        "python -m plmscale.downstream.jobs hub --model {params.model:q} --out {params.out:q}"
        " --done {output:q} > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule downstream_evaluate:
    input:
        data=lambda wildcards: STAGE.data_file(wildcards.task),
        model=lambda wildcards: STAGE.model_files(wildcards.model),
    output:
        f"{DOWN}/done/{{task}}/{{model}}.json",
    log:
        f"{OUT}/logs/downstream/{{task}}/{{model}}.log",
    conda:
        "../environment.yml"
    threads: lambda wildcards: downstream_plan.threads(CLUSTER, STAGE.models[wildcards.model])
    resources:
        **downstream_plan.resources(CLUSTER, STAGE.models),
    params:
        asked=lambda wildcards: STAGE.asked(wildcards.task),
        model=lambda wildcards: STAGE.models[wildcards.model].options(),
        attempt=lambda wildcards: STAGE.attempt(wildcards.task, wildcards.model),
        out=lambda wildcards: DOWN,
        store=lambda wildcards: f"{STAGE.shared}/store",
    shell:
        "OMP_NUM_THREADS={threads} python -m plmscale.downstream.jobs evaluate"
        " --asked {params.asked:q} --model {params.model:q} --out {params.out:q}"
        " --store {params.store:q} --threads {threads} --done {output:q} > {log:q} 2>&1"
        " || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule downstream_baselines:
    input:
        data=lambda wildcards: STAGE.data_file(wildcards.task),
    output:
        f"{DOWN}/done/{{task}}/baselines.json",
    log:
        f"{OUT}/logs/downstream/{{task}}/baselines.log",
    conda:
        "../environment.yml"
    params:
        asked=lambda wildcards: STAGE.asked(wildcards.task),
        attempt=lambda wildcards: STAGE.attempt(wildcards.task, "baselines"),
        out=lambda wildcards: DOWN,
    shell:
        "OMP_NUM_THREADS={threads} python -m plmscale.downstream.jobs baselines"
        " --asked {params.asked:q} --out {params.out:q} --done {output:q} > {log:q} 2>&1"
        " || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule downstream_leakage:
    input:
        data=lambda wildcards: STAGE.data_file(wildcards.task),
        corpus=ancient(f"{CORPUS}/manifest.json"),
    output:
        f"{DOWN}/leakage/{{task}}.json",
    log:
        f"{OUT}/logs/downstream/{{task}}/leakage.log",
    conda:
        "../environment.yml"
    threads: 4
    params:
        asked=lambda wildcards: STAGE.asked_data(wildcards.task),
        mixes=lambda wildcards: files.canonical_json(STAGE.mixes),
        attempt=lambda wildcards: STAGE.attempt(wildcards.task, "leakage"),
        out=lambda wildcards: DOWN,
    shell:
        "python -m plmscale.downstream.jobs leakage --asked {params.asked:q}"
        " --mixes {params.mixes:q} --out {params.out:q} --threads {threads} --done {output:q}"
        " > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"


# Which of the runs are the best is known when all of them have ended.
checkpoint downstream_best:
    input:
        f"{VIEW}/runs.csv",
    output:
        f"{VIEW}/downstream/best.txt",
    log:
        f"{VIEW}/logs/downstream_best.log",
    conda:
        "../environment.yml"
    params:
        columns=STUDY.downstream.best,
        runs=lambda wildcards: STAGE.run_ids(),
    script:
        "../scripts/best_runs.py"


rule downstream_tables:
    input:
        done=lambda wildcards: STAGE.done(
            checkpoints.downstream_best.get().output[0]
            if STUDY.downstream.best
            else ""
        ),
        leakage=expand(f"{DOWN}/leakage/{{task}}.json", task=STAGE.searched),
        runs=f"{VIEW}/runs.csv",
    output:
        metrics=f"{VIEW}/downstream/metrics.csv",
        parquet=f"{VIEW}/downstream/metrics.parquet",
        gains=f"{VIEW}/downstream/gains.csv",
        failures=f"{VIEW}/downstream/failures.csv",
    log:
        f"{VIEW}/logs/downstream_tables.log",
    conda:
        "../environment.yml"
    params:
        out=lambda wildcards: DOWN,
        options=lambda wildcards: STAGE.options(),
        # Other definitions of metrics make new tables, and no new predictions.
        code=[downstream_plan.definitions(task) for task in STAGE.tasks],
    script:
        "../scripts/collect_downstream.py"
