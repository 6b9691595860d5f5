# Released logs in place of training. In: the folder of logs.path, or the archive of logs.url,
# verified file by file. Out: runs.csv (.parquet), curves/, audit.csv and audit.json; and the runs
# tables of other choices: every label trusted, the last point alone, jitter kept.
LOGS = STUDY.logs.path or f"{OUT}/logs_released"
AUDIT = f"{OUT}/audit"
POINTS = snakefile.beside(STUDY.logs.path, "isoflop_points.csv")
VARIANTS = {
    "last_point": "--last 1 --jitter keep",
    "jitter_kept": f"--last {STUDY.logs.last} --jitter keep",
}
TABLE_VARIANTS = {
    "labels as released": f"{OUT}/runs_as_labelled.csv",
    "last point alone": f"{AUDIT}/last_point/runs.csv",
    "jitter kept": f"{AUDIT}/jitter_kept/runs.csv",
}


rule points:
    input:
        POINTS,
    output:
        f"{OUT}/isoflop_points.csv",
    log:
        f"{OUT}/logs/points.log",
    conda:
        "../environment.yml"
    params:
        place=POINTS or STUDY.logs.points_url,
        sha256=[] if POINTS else ["--sha256", STUDY.logs.points_sha256],
    shell:
        "python -m plmscale.cli paper-points {params.place:q} {params.sha256:q} --out {output:q}"
        " 2> {log:q} || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule fetch_logs:
    output:
        directory(f"{OUT}/logs_released"),
    log:
        f"{OUT}/logs/fetch_logs.log",
    conda:
        "../environment.yml"
    params:
        url=STUDY.logs.url,
        checksums=lambda wildcards: str(Path(workflow.basedir) / STUDY.logs.checksums),
    shell:
        "python -m plmscale.cli paper-logs --url {params.url:q} --checksums {params.checksums:q}"
        " --out {output:q} 2> {log:q} || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule audit:
    input:
        logs=LOGS,
    output:
        runs=f"{OUT}/runs.csv",
        parquet=f"{OUT}/runs.parquet",
        curves=directory(f"{OUT}/curves"),
        labelled=f"{OUT}/runs_as_labelled.csv",
        table=f"{OUT}/audit.csv",
        summary=f"{OUT}/audit.json",
    log:
        f"{OUT}/logs/audit.log",
    conda:
        "../environment.yml"
    params:
        out=subpath(output.runs, parent=True),
        last=STUDY.logs.last,
        jitter=STUDY.logs.jitter,
    shell:
        "python -m plmscale.cli audit {input.logs:q} --out {params.out:q} --last {params.last}"
        " --jitter {params.jitter}"
        " > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule audit_variant:
    input:
        logs=LOGS,
    output:
        f"{AUDIT}/{{variant}}/runs.csv",
    log:
        f"{OUT}/logs/audit_{{variant}}.log",
    wildcard_constraints:
        variant="|".join(VARIANTS),
    conda:
        "../environment.yml"
    params:
        out=subpath(output[0], parent=True),
        options=lambda wildcards: VARIANTS[wildcards.variant].split(),
    shell:
        "python -m plmscale.cli audit {input.logs:q} --out {params.out:q} {params.options:q}"
        " > {log:q} 2>&1 || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule reproduction:
    input:
        logs=LOGS,
        points=f"{OUT}/isoflop_points.csv",
        laws=f"{VIEW}/laws/laws.json",
        runs=f"{OUT}/runs.csv",
        curves=f"{OUT}/curves",
        audit=f"{OUT}/audit.csv",
    output:
        f"{OUT}/reproduction.json",
    log:
        f"{OUT}/logs/reproduction.log",
    conda:
        "../environment.yml"
    params:
        seed=STUDY.laws.seed,
    shell:
        "python -m plmscale.cli reproduce {input.logs:q} --points {input.points:q}"
        " --laws {input.laws:q} --runs {input.runs:q} --curves {input.curves:q}"
        " --audit {input.audit:q} --seed {params.seed} --out {output:q} > {log:q} 2>&1"
        " || {{ tail -n 3 {log:q} >&2; exit 1; }}"
