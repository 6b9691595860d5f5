# Figures. In: runs table, curves, laws, findings, holdout, sensitivity, and what only one kind of
# study has (ORIGIN): corpus statistics and metrics, or the points of the paper's figure.
# Out: figures/<name>.svg and .png, all drawn by one process (importing costs more than drawing).
FIGURES = {
    "isoflop": "Laws",
    "frontiers": "Laws",
    "exponents": "Laws",
    "sensitivity": "Does it hold?",
    "holdout": "Does it hold?",
    "parametric": "Loss surface",
    "isoloss": "Loss surface",
    "identifiability": "Loss surface",
    "allocation": "Laws",
    "learning_curves": "Runs",
    "repetition": "Runs",
}
FIGURES |= (
    {
        "effective_tokens": "Runs",
        "transfer_curves": "Transfer",
        "pretraining_share": "Transfer",
        "mask_ratio": "Runs",
    }
    if STUDY.logs
    else {
        "transfer": "Transfer",
        "speed": "Runs",
        "corpus_lengths": "Corpus",
        "corpus_residues": "Corpus",
        "corpus_duplicates": "Corpus",
        "corpus_identity": "Corpus",
        "corpus_epochs": "Corpus",
    }
)


rule figures_all:
    input:
        runs=f"{VIEW}/runs.csv",
        curves=f"{VIEW}/curves",
        laws=f"{VIEW}/laws/laws.json",
        findings=f"{VIEW}/laws/findings.json",
        holdout=f"{VIEW}/laws/holdout.json",
        sensitivity=f"{VIEW}/laws/sensitivity.json",
        origin=ORIGIN,
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
        names=list(FIGURES),
        folder=subpath(output.isoflop, parent=True),
        origin=lambda wildcards: ORIGIN_OF_FIGURES,
    shell:
        "python -m plmscale.figures {params.names} --runs {input.runs:q} --curves {input.curves:q}"
        " --laws {input.laws:q} --findings {input.findings:q}"
        " --holdout {input.holdout:q} --sensitivity {input.sensitivity:q} {params.origin:q}"
        " --out {params.folder:q} > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"


if STUDY.downstream:

    include: "scaling.smk"
