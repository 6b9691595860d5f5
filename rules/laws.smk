# Laws. In: the runs table and curves. Out: laws/laws.json, laws/findings.json,
# laws/holdout.json (do laws fitted to small budgets foretell large ones?) and
# laws/sensitivity.json (how much of an exponent is choice?).


rule fit:
    input:
        runs=f"{VIEW}/runs.csv",
        curves=f"{VIEW}/curves",
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
        "python -m plmscale.cli fit {input.runs:q} --curves {input.curves:q} --out {output.laws:q}"
        " --methods {params.methods:q} --flops-column {params.flops}"
        " --boot {params.boot} --seed {params.seed} --allow-empty > {log:q} 2>&1"
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


rule holdout:
    input:
        runs=f"{VIEW}/runs.csv",
        curves=f"{VIEW}/curves",
    output:
        f"{VIEW}/laws/holdout.json",
    log:
        f"{VIEW}/logs/holdout.log",
    conda:
        "../environment.yml"
    params:
        up_to=["--up-to", f"{STUDY.laws.fit_up_to:g}"] if STUDY.laws.fit_up_to else [],
        methods=STUDY.laws.methods,
        flops=STUDY.laws.flops,
        seed=STUDY.laws.seed,
    shell:
        "python -m plmscale.cli holdout {input.runs:q} --curves {input.curves:q}"
        " --out {output:q} {params.up_to:q} --methods {params.methods:q}"
        " --flops-column {params.flops} --seed {params.seed} --allow-empty > {log:q} 2>&1"
        " || {{ tail -n 3 {log:q} >&2; exit 1; }}"


rule sensitivity:
    input:
        runs=f"{VIEW}/runs.csv",
        curves=f"{VIEW}/curves",
        variants=TABLE_VARIANTS.values(),
    output:
        f"{VIEW}/laws/sensitivity.json",
    log:
        f"{VIEW}/logs/sensitivity.log",
    conda:
        "../environment.yml"
    params:
        variants=[
            word
            for name, path in TABLE_VARIANTS.items()
            for word in ("--variant", f"{name}={path}")
        ],
        flops=STUDY.laws.flops,
        seed=STUDY.laws.seed,
    shell:
        "python -m plmscale.cli sensitivity {input.runs:q} --curves {input.curves:q}"
        " --out {output:q} {params.variants:q}"
        " --flops-column {params.flops} --seed {params.seed} > {log:q} 2>&1"
        " || {{ tail -n 3 {log:q} >&2; exit 1; }}"
