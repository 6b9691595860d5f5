# Named targets: snakemake corpus | grid | laws | downstream | figures | report, for the study and selection at hand.


if not STUDY.logs:

    rule corpus:
        input:
            f"{CORPUS}/manifest.json",
            f"{CORPUS}/stats/sources.csv",
            f"{OUT}/epochs.csv",


rule grid:
    input:
        run_files("metrics.json"),
        f"{VIEW}/runs.csv",


rule laws:
    input:
        f"{VIEW}/laws/laws.json",
        f"{VIEW}/laws/findings.json",
        f"{VIEW}/laws/holdout.json",
        f"{VIEW}/laws/sensitivity.json",


if STUDY.downstream:

    rule downstream:
        input:
            DOWNSTREAM,
            DOWNSTREAM_BEST,


rule figures:
    input:
        expand(f"{VIEW}/figures/{{name}}.svg", name=FIGURES),


rule report:
    input:
        f"{VIEW}/report.html",
