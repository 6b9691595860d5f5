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
        study=configfile.render(STUDY.model_dump()),
    shell:
        "printf '%s' {params.study:q} > {output:q} 2> {log:q}"


rule report_html:
    input:
        runs=f"{VIEW}/runs.csv",
        metrics=run_files("metrics.json"),
        laws=f"{VIEW}/laws/laws.json",
        findings=f"{VIEW}/laws/findings.json",
        study=f"{VIEW}/study.yaml",
        figures=expand(f"{VIEW}/figures/{{name}}.svg", name=FIGURES),
        corpus=f"{OUT}/corpus/manifest.json",
        stats=f"{OUT}/corpus/stats/sources.csv",
    output:
        f"{VIEW}/report.html",
    log:
        f"{VIEW}/logs/report.log",
    conda:
        "../environment.yml"
    params:
        metrics=lambda wildcards: f"{OUT}/runs",
        figures=lambda wildcards, input: str(Path(input.figures[0]).parent),
        corpus=subpath(input.corpus, parent=True),
    shell:
        "python -m plmscale.report --runs {input.runs:q} --laws {input.laws:q}"
        " --findings {input.findings:q} --figures {params.figures:q}"
        " --corpus {params.corpus:q} --study {input.study:q}"
        " --metrics {params.metrics:q} --out {output:q}"
        " > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"
