# Laws. In: metrics and curves of the chosen runs. Out: runs.csv (and .parquet), curves/,
# laws/laws.json, laws/findings.json.


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


rule fit:
    input:
        runs=f"{VIEW}/runs.csv",
    output:
        laws=f"{VIEW}/laws/laws.json",
    log:
        f"{VIEW}/logs/fit.log",
    conda:
        "../environment.yml"
    params:
        methods=STUDY.laws.methods,
        flops=STUDY.laws.flops,
        boot=STUDY.laws.bootstrap,
        seed=STUDY.laws.seed,
    shell:
        "python -m plmscale.cli fit {input.runs:q} --out {output.laws:q}"
        " --methods {params.methods:q} --flops-column {params.flops}"
        " --boot {params.boot} --seed {params.seed} > {log:q} 2>&1"
        " || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule findings:
    input:
        runs=f"{VIEW}/runs.csv",
        curves=f"{VIEW}/curves",
    output:
        f"{VIEW}/laws/findings.json",
    log:
        f"{VIEW}/logs/findings.log",
    conda:
        "../environment.yml"
    params:
        folders=lambda wildcards: f"{OUT}/runs",
    shell:
        "python -m plmscale.cli findings {input.runs:q} --out {output:q}"
        " --curves {input.curves:q} --run-folders {params.folders:q} > {log:q} 2>&1"
        " || {{ tail -n 3 {log:q} >&2; exit 1; }}"
