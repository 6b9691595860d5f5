# The scaling question. In: tables of the downstream evaluation, the predictions behind them and the
# runs table. Out: downstream/scaling.json, and figures/downstream_*.svg and .png, drawn by one
# process of their own: the figures of laws do not wait for the evaluation.
DOWNSTREAM_FIGURES = [
    "downstream_loss",
    "downstream_contacts",
    "downstream_identity",
    "downstream_fitness",
    "downstream_generation",
]


rule downstream_scaling:
    input:
        tables=DOWNSTREAM,
        runs=f"{VIEW}/runs.csv",
    output:
        f"{VIEW}/downstream/scaling.json",
    log:
        f"{VIEW}/logs/downstream_scaling.log",
    conda:
        "../environment.yml"
    params:
        tables=lambda wildcards, output: str(Path(output[0]).parent),
        evaluation=lambda wildcards: DOWN,
        options=lambda wildcards: STAGE.options(),
        flops=STUDY.laws.flops,
    shell:
        "python -m plmscale.downstream.scaling --tables {params.tables:q} --runs {input.runs:q}"
        " --evaluation {params.evaluation:q} --options {params.options:q}"
        " --flops-column {params.flops:q} --out {output:q}"
        " > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule downstream_figures:
    input:
        tables=DOWNSTREAM,
        scaling=f"{VIEW}/downstream/scaling.json",
        runs=f"{VIEW}/runs.csv",
    output:
        **{
            name: report(
                f"{VIEW}/figures/{name}.svg",
                caption=f"report/{name}.rst",
                category="Downstream",
                labels={"figure": name.replace("_", " ")},
            )
            for name in DOWNSTREAM_FIGURES
        },
        png=expand(f"{VIEW}/figures/{{name}}.png", name=DOWNSTREAM_FIGURES),
    log:
        f"{VIEW}/logs/downstream_figures.log",
    conda:
        "../environment.yml"
    params:
        tables=lambda wildcards, input: str(Path(input.scaling).parent),
        names=DOWNSTREAM_FIGURES,
        folder=subpath(output.downstream_loss, parent=True),
        evaluation=lambda wildcards: DOWN,
    shell:
        "python -m plmscale.figures {params.names} --runs {input.runs:q}"
        " --downstream {params.tables:q} --evaluation {params.evaluation:q}"
        " --out {params.folder:q} > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"
