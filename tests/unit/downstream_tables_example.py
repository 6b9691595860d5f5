"""Tables of a made-up evaluation, in the form of plmscale.downstream.collect, with a known truth.

Metrics are made by a rule that a test hands in, so that it knows what has to come out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from plmscale.corpus.stats import IDENTITY_BINS
from plmscale.downstream.collect import FAILURES, GAINS, METRICS, RANDOM, verdict
from plmscale.tables import RUNS_COLUMNS, write_runs

SE = 0.004
TYPES = ("Activity", "Binding", "Expression", "OrganismalFitness", "Stability")
FOLD = ("fold", "probe", "test", "all", "accuracy", "top class")
FITNESS = ("fitness", "zero-shot", "test", "average", "spearman", "rank correlation")


def runs_table(n=10, objectives=("clm", "mlm")) -> pd.DataFrame:
    """Return a runs table: sizes and tokens grow together, loss falls with compute."""
    rows = []
    for objective in objectives:
        for k in range(n):
            size, tokens = int(3000 * 1.9**k), int(2e6 * 1.3**k)
            rows.append(dict.fromkeys(RUNS_COLUMNS) | {
                "run_id": f"{objective}-{k}", "study": "demo", "objective": objective,
                "architecture": f"{k + 1}x16", "n_layers": k + 1, "d_model": 16, "n_params": size,
                "tokens": tokens, "flops_6nd": 6.0 * size * tokens, "flops": 7.0 * size * tokens,
                "corpus": "mix", "mask_ratio": 0.15 if objective == "mlm" else np.nan,
                "parent": "", "seed": 1, "loss": 2.9 - 0.05 * k + 0.01 * (k % 3 == 1),
                "loss_sd": 0.002, "source": "plmscale", "status": "done",
            })  # fmt: skip
    return pd.DataFrame(rows)


def metric_row(run, measure, value, *, twin=False, seed=1, se=SE, higher=True, primary=True):
    task, method, split, group, metric, definition = measure
    return dict.fromkeys(METRICS) | {
        "model": run["run_id"], "run_id": run["run_id"],
        "kind": run["objective"], "origin": "run", "twin": twin, "n_params": run["n_params"],
        "loss": None if twin else run["loss"], "task": task, "method": method, "seed": seed,
        "split": split, "group": group, "metric": metric, "definition": definition,
        "value": value, "se": se, "ci95_low": value - 2 * se, "ci95_high": value + 2 * se,
        "n": 700, "primary": primary, "higher_is_better": higher,
        "leakage": None if twin else 0.12, "leakage_any": None if twin else 0.4,
    }  # fmt: skip


def gain_row(run, measure, trained, other, *, seed=1, se=SE, higher=True, against=RANDOM):
    task, method, split, group, metric, definition = measure
    gain = trained - other
    row = dict.fromkeys(GAINS) | {
        "model": run["run_id"], "kind": run["objective"], "task": task, "method": method,
        "seed": seed, "against": against, "split": split, "group": group, "metric": metric,
        "definition": definition, "trained": trained, "other": other, "gain": gain, "se": se,
        "ci95_low": gain - 2 * se, "ci95_high": gain + 2 * se, "n": 700, "primary": True,
        "higher_is_better": higher,
    }  # fmt: skip
    return row | {"verdict": verdict(row)}


def baseline_row(measure, value, name):
    row = metric_row(
        {"run_id": "", "objective": "", "n_params": None, "loss": None}, measure, value
    )
    return row | {"model": f"baseline:{name}", "method": f"baseline:{name}", "origin": "baseline",
                  "leakage": None, "leakage_any": None, "kind": ""}  # fmt: skip


def tables(runs, rules, *, seeds=(1,), twin=0.1, baselines=True, noise_seed=3):
    """Return metrics, gains and failures; `rules` holds value(run) by measure.

    A twin has the value `twin` everywhere; noise of each value is SE.
    """
    rng = np.random.default_rng(noise_seed)
    metrics, gains = [], []
    for measure, value in rules.items():
        for run in runs.to_dict("records"):
            for seed in seeds:
                trained, other = value(run) + rng.normal(0, SE), twin + rng.normal(0, SE)
                metrics.append(metric_row(run, measure, trained, seed=seed))
                metrics.append(metric_row(run, measure, other, twin=True, seed=seed))
                gains.append(gain_row(run, measure, trained, other, seed=seed))
                if baselines:
                    named = {"seed": seed, "against": "baseline:composition"}
                    gains.append(gain_row(run, measure, trained, 0.08, **named))
        if baselines:
            metrics.append(baseline_row(measure, 0.08, "composition"))
    failures = [("fold", "gated", "probe", "failed", "hf:gated: needs a licence; accept it there"),
                ("generation", "clm-0", "zero-shot", "not run", "foldseek: no such program")]  # fmt: skip
    return {
        "metrics": pd.DataFrame(metrics, columns=METRICS),
        "gains": pd.DataFrame(gains, columns=GAINS),
        "failures": pd.DataFrame(failures, columns=FAILURES),
    }


def by_loss(run) -> float:
    """A metric that follows the loss: 0.2 at 2.9 nats and 0.4 more a nat less."""
    return 0.2 + 0.4 * (2.9 - run["loss"])


def full(runs=None):
    """Return a runs table and an evaluation with every kind of group that figures draw."""
    runs = runs_table(6) if runs is None else runs
    rules = {FOLD: by_loss, ("fold", "lora", *FOLD[2:]): lambda r: by_loss(r) + 0.05}
    for group in (*TYPES, "average"):
        shift = 0.02 * len(group) / 5
        rules[(*FITNESS[:3], group, *FITNESS[4:])] = lambda r, s=shift: by_loss(r) / 2 + s
    for method in ("probe", "lora"):
        for where in (">=6", ">=24"):
            words = f"|i-j|{where}, macro, L=sequence"
            own = ("contacts", method, "test")
            rules[(*own, "", "P@L/5", words)] = by_loss
            for size in (5, 20, 80):
                rules[(*own, f"train={size}", "P@L/5", words)] = lambda r, n=size: (
                    by_loss(r) - 0.15 + 0.03 * np.log2(n)
                )
    found = tables(runs, rules)
    low = [row for row in found["metrics"].to_dict("records") if row["group"].startswith("train=")]
    for row in low:
        row["primary"] = False
    rest = found["metrics"][~found["metrics"]["group"].str.startswith("train=")]
    extra = []
    for run in runs.to_dict("records"):
        measure = ("perplexity", "zero-shot", "test")
        name = f"perplexity_{run['objective']}"
        for k, group in enumerate((*IDENTITY_BINS, "all")):
            words = "exp of nats a standard residue"
            value = np.exp(run["loss"] - 0.05 * k)
            extra.append(
                metric_row(run, (*measure, group, name, words), value, se=0.1, higher=False)
            )
            extra.append(
                metric_row(
                    run, (*measure, group, name, words), 20.5, se=0.1, higher=False, twin=True
                )
            )
    extra += generation_rows(runs)
    extra += [
        metric_row(OUTSIDE, measure, value) | {"origin": "hub", "run_id": "", "leakage": None}
        for measure, value in ((FOLD, 0.62), (FITNESS, 0.41))
    ]
    found["metrics"] = pd.concat([rest, pd.DataFrame([*low, *extra])], ignore_index=True)
    return runs, found


OUTSIDE = {"run_id": "esm2-150m", "objective": "mlm", "n_params": 148_000_000, "loss": None}
GENERATED = {"ks_length": 0.31, "js_residues": 0.012, "unterminated": 0.08, "copied": 0.0,
             "nearest_held_out": 0.22, "clusters_50": 84.0}  # fmt: skip
NOT_RUN = "no GPU; ESMFold is not run on a CPU"


def generation_rows(runs):
    rows = []
    sets = [("generated", f"T={t} p={p}") for t in (0.8, 1.0) for p in (0.95, 1.0)]
    sets += [("control", name) for name in ("natural", "shuffled", "unigram")]
    for run in runs[runs["objective"] == "clm"].to_dict("records"):
        for twin in (False, True):
            for k, (split, group) in enumerate(sets):
                for name, value in GENERATED.items():
                    measure = ("generation", "zero-shot", split, group, name, f"{name} in words")
                    value = value * (1 + 0.05 * k) * (2 if twin else 1)
                    rows.append(metric_row(run, measure, value, twin=twin, se=value / 20,
                                           higher=name == "clusters_50",
                                           primary=name == "ks_length" and split == "generated"))  # fmt: skip
            measure = (
                "generation",
                "zero-shot",
                "generated",
                "all",
                "plddt",
                f"not run: {NOT_RUN}",
            )
            rows.append(metric_row(run, measure, np.nan, twin=twin, primary=False) | {"n": 0})
    return rows


def write(folder, runs, found):
    """Write runs.csv and downstream/*.csv below `folder`."""
    write_runs(runs, folder / "runs.csv")
    (folder / "downstream").mkdir(parents=True, exist_ok=True)
    for name, table in found.items():
        table.to_csv(folder / "downstream" / f"{name}.csv", index=False)
    return folder / "downstream"
