# Figures. In: runs table, curves, laws, findings, corpus statistics, metrics.
# Out: figures/<name>.svg and .png, all drawn by one process (importing costs more than drawing).
FIGURES = {
    "isoflop": "Laws",
    "frontiers": "Laws",
    "exponents": "Laws",
    "parametric": "Laws",
    "learning_curves": "Runs",
    "repetition": "Runs",
    "transfer": "Runs",
    "speed": "Runs",
    "corpus_lengths": "Corpus",
    "corpus_residues": "Corpus",
}


rule figures_all:
    input:
        runs=f"{VIEW}/runs.csv",
        curves=f"{VIEW}/curves",
        laws=f"{VIEW}/laws/laws.json",
        findings=f"{VIEW}/laws/findings.json",
        stats=f"{OUT}/corpus/stats/sources.csv",
    output:
        **{
            name: report(
                f"{VIEW}/figures/{name}.svg",
                caption=f"report/{name}.rst",
                category=category,
                labels={"figure": name.replace("_", " ")},
            )
            for name, category in FIGURES.items()
        },
        png=expand(f"{VIEW}/figures/{{name}}.png", name=FIGURES),
    log:
        f"{VIEW}/logs/figures.log",
    conda:
        "../environment.yml"
    params:
        folder=subpath(output.isoflop, parent=True),
        stats=subpath(input.stats, parent=True),
        metrics=lambda wildcards: f"{OUT}/runs",
    shell:
        "python -m plmscale.figures all --runs {input.runs:q} --curves {input.curves:q}"
        " --laws {input.laws:q} --findings {input.findings:q}"
        " --corpus-stats {params.stats:q} --metrics {params.metrics:q}"
        " --out {params.folder:q} > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"
