# Named targets: snakemake corpus | grid | laws | figures | report, for the study and selection at hand.


if not STUDY.logs:

    rule corpus:
        input:
            f"{OUT}/corpus/manifest.json",
            f"{OUT}/corpus/stats/sources.csv",
            # Of these rules, not of those that an older manifest was built by.
            STAMPS["corpus"],


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


rule figures:
    input:
        expand(f"{VIEW}/figures/{{name}}.svg", name=FIGURES),


rule report:
    input:
        f"{VIEW}/report.html",
