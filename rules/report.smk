# The report. In: everything of a view. Out: report.html, one file that opens without a network,
# and study.yaml, the resolved config it was made with.


rule resolved_study:
    output:
        f"{VIEW}/study.yaml",
    log:
        f"{VIEW}/logs/study.log",
    conda:
        "../environment.yml"
    params:
        # A function: Snakemake would read braces in the text as wildcards.
        study=lambda wildcards: configfile.render(STUDY.model_dump()),
    shell:
        "printf '%s' {params.study:q} > {output:q} 2> {log:q}"


PART = snakefile.part_text(CHOICE, len(RUNS), len(ALL_RUNS))
PART_OF_REPORT = ["--part", PART] if PART else []
# What the report shows of a downstream evaluation, where the study asks for one.
EVALUATED = (
    [
        *DOWNSTREAM,
        f"{VIEW}/downstream/scaling.json",
        *expand(f"{VIEW}/figures/{{name}}.svg", name=DOWNSTREAM_FIGURES),
    ]
    if STUDY.downstream
    else []
)
EVALUATED_OF_REPORT = ["--downstream", f"{VIEW}/downstream"] if EVALUATED else []


rule report_html:
    input:
        runs=f"{VIEW}/runs.csv",
        metrics=run_files("metrics.json"),
        laws=f"{VIEW}/laws/laws.json",
        findings=f"{VIEW}/laws/findings.json",
        holdout=f"{VIEW}/laws/holdout.json",
        sensitivity=f"{VIEW}/laws/sensitivity.json",
        study=f"{VIEW}/study.yaml",
        figures=expand(f"{VIEW}/figures/{{name}}.svg", name=FIGURES),
        origin=ORIGIN,
        evaluated=EVALUATED,
    output:
        f"{VIEW}/report.html",
    log:
        f"{VIEW}/logs/report.log",
    conda:
        "../environment.yml"
    params:
        figures=lambda wildcards, input: str(Path(input.figures[0]).parent),
        origin=lambda wildcards: ORIGIN_OF_REPORT,
        evaluated=lambda wildcards: EVALUATED_OF_REPORT,
        # A function, too: a selection may hold braces.
        part=lambda wildcards: PART_OF_REPORT,
    shell:
        "python -m plmscale.report --runs {input.runs:q} --laws {input.laws:q}"
        " --findings {input.findings:q} --holdout {input.holdout:q}"
        " --sensitivity {input.sensitivity:q} --figures {params.figures:q}"
        " --study {input.study:q} {params.origin:q} {params.evaluated:q} {params.part:q}"
        " --out {output:q}"
        " > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"
