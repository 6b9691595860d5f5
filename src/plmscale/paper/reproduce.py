"""Which published numbers come out again, to which digits, and why not where they do not.

Three sources: the points of the paper's own figure, the paper's own constructions on the released
logs taken as labelled, and the laws of the audited logs. Every row says which one it is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from plmscale.files import finite
from plmscale.laws.advice.advise import advise
from plmscale.laws.fit import fit_laws
from plmscale.paper import published
from plmscale.paper.evidence import jitter

REPRODUCED = "reproduced"
WITHIN = "within interval"
NOT = "not reproduced"

_SAYING = ("isoflop_joint", "isoflop_parabola", "isoflop_raw_linear")
_NAMES = {
    "isoflop_joint": "joint profile", "isoflop_parabola": "parabolas",
    "isoflop_raw_linear": "raw minima, linear",
}  # fmt: skip
POINTS = "The table of N_opt and D_opt, from the points of the paper's figure"
PARAMETRIC = "The parametric law, by the paper's own construction on the logs as labelled"
AUDITED = "The same exponents from the audited logs"
LARGE = "Sizes chosen by the law for the two large models"
TRANSFER = "Transfer"
NOTES = {
    POINTS: "Least squares of A C^p in linear space through the seven raw minima of each objective, "
    "which is how the paper's digits come out.",
    PARAMETRIC: "L = E + A / N^α + B / D^β through the lower envelope of the learning curves (129 "
    "points for CLM, 82 for MLM), with N and tokens counted as the authors did. A printed row that "
    "is no optimum of its own objective is marked.",
    AUDITED: "A published exponent within our interval agrees with the data as audited; one outside "
    "says that method and audit matter more than noise.",
    LARGE: "Our law is asked for the best size at the compute each model was trained with.",
    TRANSFER: "Compute of the last stage alone. The published numbers of this table are as recalled "
    "and were not checked against the text.",
}
_LETTERS = {"N_opt": ("A", "a"), "D_opt": ("B", "b")}


def reproduce(
    points: pd.DataFrame,
    laws: Mapping[str, Any],
    parametric: Mapping[str, Mapping[str, Any]],
    scatter: Mapping[str, float],
    audit: pd.DataFrame | None = None,
    n_boot: int = 400,
    seed: int = 0,
) -> dict[str, Any]:
    """Return reproduction.json: one row a published number, with ours and a verdict.

    `points` are the points of the paper's figure (paper.points.read_points), `laws` the content
    of laws.json of the audited logs, `parametric` per objective what paper.table_a9 returns,
    `scatter` the standard deviation of consecutive validation points by objective, `audit` the
    content of audit.csv, for the reasons.
    """
    of_points = fit_laws(points, methods=_SAYING, n_boot=n_boot, seed=seed)["laws"]
    rows = [
        *_own_construction(of_points),
        *_parametric(parametric),
        *_audited(laws["laws"]),
        *_large_models(laws),
        *_transfer(laws.get("transfer") or {}, _training_losses(audit)),
        *_jitter(scatter),
    ]
    counts = pd.Series([row["verdict"] for row in rows]).value_counts()
    return finite(
        {
            "schema": 1,
            "rows": rows,
            "verdicts": {str(name): int(count) for name, count in counts.items()},
            "notes": NOTES,
            "laws_of_points": _exponents(of_points),
        }
    )


def _exponents(laws: Mapping[str, Any]) -> dict[str, Any]:
    return {
        objective: {
            method: {
                "N_opt": entry["N_opt"], "D_opt": entry["D_opt"], "ci95": entry["ci95"].get("a"),
            }
            for method, entry in entries.items()
        }
        for objective, entries in laws.items()
    }  # fmt: skip


def agrees(value: float, printed: str) -> str:
    """Return how `value` matches a printed number: "rounded", "cut" or "" for not at all.

    Printed tables mix rounding and cutting; both show that the same number was at hand.
    """
    count = published.digits(printed)
    target = float(printed)
    if target == 0:
        return "rounded" if abs(value) < 1e-3 else ""
    scale = 10.0 ** (math.floor(math.log10(abs(target))) - count + 1)
    if math.isclose(round(value / scale), round(target / scale), abs_tol=0.1):
        return "rounded"
    cut = math.floor(value / scale + 1e-9)
    return "cut" if math.isclose(cut, round(target / scale), abs_tol=0.1) else ""


def _row(
    group: str, quantity: str, objective: str, printed: str, value: float | None,
    ends: Sequence[float | None] | None, verdict: str, why: str, digits: int = 4,
) -> dict[str, Any]:  # fmt: skip
    target = float(printed)
    difference = "–"
    if value is not None:
        gap = value / target - 1 if target else value
        difference = f"{gap:+.1%}" if target else f"{value:+.2g}"
    return {
        "group": group,
        "quantity": quantity,
        "objective": objective,
        "published": printed,
        "here": "–" if value is None else f"{value:.{digits}g}",
        "value": value,
        "interval": _interval(ends),
        "difference": difference.replace("-", "−"),
        "verdict": verdict,
        "why": why,
    }


def _interval(ends: Sequence[float | None] | None) -> str:
    if not ends or all(end is None for end in ends):
        return "–"
    low, high = ("?" if end is None else f"{end:.3g}" for end in ends)
    return f"{low} to {high}"


def _inside(target: float, ends: Sequence[float | None] | None) -> bool:
    if not ends or all(end is None for end in ends):
        return False
    low, high = ends
    return (low is None or low <= target) and (high is None or target <= high)


def _own_construction(laws: Mapping[str, Any]) -> list[dict[str, Any]]:
    group = POINTS
    rows = []
    for objective, wanted in published.POWER_LAWS.items():
        entry = laws[objective]["isoflop_raw_linear"]
        for law, printed in wanted.items():
            for letter, text in zip(_LETTERS[law], printed, strict=True):
                value = entry[law][letter]
                how = agrees(value, text)
                why = "printed cut, not rounded" if how == "cut" else ""
                name = f"{law}: {letter}"
                verdict = f"{REPRODUCED} to {published.digits(text)} digits" if how else NOT
                rows.append(_row(group, name, objective, text, value, None, verdict, why))
    return rows


def _parametric(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    group = PARAMETRIC
    rows = []
    for objective, printed in published.PARAMETRIC.items():
        if objective not in found:
            continue
        fit = found[objective]
        mine, best, there = (fit[name] for name in (fit["printed_is"], "global", "published"))
        stop = "the global optimum" if fit["printed_is"] == "global" else (
            "where the search stops from the paper's start"
        )  # fmt: skip
        for letter, text in printed.items():
            same = fit["differences"][letter]["two_digits"]
            verdict = f"{REPRODUCED} to 2 digits" if same else NOT
            rows.append(_row(group, letter, objective, text, mine[letter], None, verdict, ""))
        still = "" if mine["stationary"] else "; the printed one is no optimum: from there it falls"
        rows.append(
            _row(group, "least objective", objective,
                 f"{there['objective']:.4g}", best["objective"], None, "",
                 f"the row is {stop}. Published: at the printed values; here: the global optimum, E {best['E']:.3g}, alpha {best['alpha']:.3g}, beta {best['beta']:.3g}, "
                 f"size exponent {best['a']:.3f} (printed {there['a']:.3f}){still}")
        )  # fmt: skip
    return rows


def _audited(laws: Mapping[str, Any]) -> list[dict[str, Any]]:
    group = AUDITED
    rows = []
    for objective, wanted in published.POWER_LAWS.items():
        for method in _SAYING:
            entry = laws.get(objective, {}).get(method)
            if entry is None or entry["N_opt"]["a"] is None:
                continue
            for law, printed in wanted.items():
                letter = _LETTERS[law][1]
                value, ends = entry[law][letter], entry["ci95"][law].get(letter)
                target = float(printed[1])
                verdict = WITHIN if _inside(target, ends) else NOT
                why = _NAMES[method]
                if verdict == NOT and law == "N_opt":
                    low, high = laws[objective]["isoflop_raw_linear"]["ci95"][law][letter]
                    why += (
                        f": all runs of a budget place its optimum. The paper's own method, raw "
                        f"minima in linear space, has {low:.2f} to {high:.2f} on these logs, so its "
                        "three digits are more than the data hold"
                    )
                rows.append(
                    _row(
                        group, f"{law}: {letter}", objective, printed[1], value, ends, verdict, why
                    )
                )
    return rows


def _large_models(laws: Mapping[str, Any]) -> list[dict[str, Any]]:
    group = LARGE
    rows = []
    for model in published.LARGE_MODELS:
        budget = model.flops
        coefficient, exponent = published.values(published.POWER_LAWS[model.objective]["N_opt"])
        law = coefficient * budget**exponent
        answer = advise(laws, model.objective, budget)["n_params"]
        ends, value = answer["ci95"], answer["value"]
        why = (
            f"best size for the {budget:.3g} FLOPs it was trained with; the published law gives "
            f"{law:.3g}, the paper trained {model.n_params:.3g}"
        )
        verdict = WITHIN if _inside(model.n_params, ends) else NOT
        rows.append(
            _row(group, "N", model.objective, f"{model.n_params:.3g}", value, ends, verdict, why, 3)
        )
    return rows


def _training_losses(audit: pd.DataFrame | None) -> dict[str, int]:
    """Return how many transfer files hold training losses in place of validation, by objective."""
    if audit is None:
        return {}
    wrong = audit["mistakes"].fillna("").str.contains("training_loss")
    return audit[wrong & (audit["kind"] == "transfer")].groupby("objective").size().to_dict()


def _transfer(section: Mapping[str, Any], training: Mapping[str, int]) -> list[dict[str, Any]]:
    group = TRANSFER
    rows = []
    directions = section.get("directions") or {}
    for objective, wanted in published.TRANSFER_LAWS.items():
        direction = next((d for d in directions.values() if d["objective"] == objective), None)
        ends_laws = ((direction or {}).get("loss_of_compute") or {}).get("ends") or {}
        for kind, name in (("scratch", "scratch"), ("transfer", "after_pretraining")):
            law = ends_laws.get(name)
            if law is None:
                continue
            printed = wanted[kind][1]
            ends = (law.get("ci95") or {}).get("a")
            verdict = WITHIN if _inside(float(printed), ends) else NOT
            why = f"final losses of {direction['n_pairs']} sizes"
            if verdict == NOT and training.get(objective):
                why += (
                    f"; {training[objective]} of the released files hold training losses, which lie "
                    "lower: here the validation losses of the same runs stand in"
                )
            quantity = "L(C) exponent, " + (
                "from scratch" if kind == "scratch" else "after the other"
            )
            rows.append(
                _row(group, quantity, objective, printed, law["a"], ends, verdict, why, 3)
            )  # fmt: skip
    share = next(
        (d.get("share") for d in directions.values() if d["objective"] == "mlm"), None
    ) or {}  # fmt: skip
    if share:
        low, high = published.PRETRAINING_SHARE
        best = share["best"]
        inside = best["value"] is not None and low * 0.9 <= best["value"] <= high
        verdict = WITHIN if inside and not share.get("at_edge") else "not decided"
        why = (
            "the logs vary share and size together, so the best share is not identified"
            if share.get("at_edge") else "the share with the least loss for a given total"
        )  # fmt: skip
        row = _row(group, "best share of CLM pre-training", "mlm", f"{low}", best["value"],
                   best.get("ci95"), verdict, why, 2)  # fmt: skip
        rows.append({**row, "published": f"{low:.0%} to {high:.0%}", "difference": "–"})
    return rows


def late_jitter(runs: pd.DataFrame, curves: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Return the s.d. of validation points around a run's late trend: the median run's."""
    found: dict[str, list[float]] = {}
    for row in runs[runs["status"] == "done"].itertuples():
        curve = curves.get(row.run_id)
        points = None if curve is None else curve[curve["split"] == "valid"]
        if points is None or points.empty:
            continue
        sd = jitter(points["loss"].to_numpy(), points["tokens"].to_numpy())
        if sd is not None:
            found.setdefault(row.objective, []).append(sd)
    return {name: statistics.median(sds) for name, sds in found.items()}


def _jitter(found: Mapping[str, float]) -> list[dict[str, Any]]:
    group = "Noise"
    rows = []
    for objective, known in published.JITTER.items():
        if objective in found:
            value = found[objective]
            verdict = REPRODUCED if abs(value / known - 1) < 0.25 else NOT
            rows.append(
                _row(group, "s.d. of consecutive validation points", objective, f"{known}", value,
                     None, verdict, "around the late trend, the median of the audited runs", 2)
            )  # fmt: skip
    return rows
