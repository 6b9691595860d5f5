"""The paper's other two questions, in words: does repetition hurt, does CLM pre-training help?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from plmscale.files import finite
from plmscale.laws.bootstrap import Z95, Noise, seed_noise

Reader = Callable[[str], pd.DataFrame | None]

# Runs count as equal in tokens or compute within this share: whole steps round both.
SAME = 0.05


def findings(
    runs: pd.DataFrame, curves: Reader | None = None, validation: Reader | None = None
) -> dict[str, Any]:
    """Return the content of findings.json: `repetition`, `transfer` and `warnings`.

    `curves` and `validation` give a run's curve (step, tokens, flops_6nd, split, loss) and its
    loss per validation row (row, source, tokens, nll) by run_id, or None where there is none.
    """
    repeated = repetition(runs, curves, validation)
    moved, unmatched = transfer(runs, validation)
    return finite({"schema": 1, "repetition": repeated, "transfer": moved, "warnings": unmatched})


def repetition(
    runs: pd.DataFrame, curves: Reader | None = None, validation: Reader | None = None
) -> list[dict[str, Any]]:
    """Compare runs of one objective, size and token count that differ in their corpus.

    In each pair the first saw its corpus more often (`epochs`). `difference` is its loss minus
    the other's in nats a token; `turn` says whether its validation loss rose again before the
    end. `verdict` is lower, higher or not resolved, of the first against the second.
    """
    usable = _finished(runs)
    fresh = usable[usable["parent"] == ""]
    noise = seed_noise(fresh)
    found = []
    for (objective, n_params), group in fresh.groupby(["objective", "n_params"]):
        rows = group.sort_values(["corpus", "tokens", "run_id"]).to_dict("records")
        for i, one in enumerate(rows):
            for two in rows[i + 1 :]:
                if one["corpus"] == two["corpus"] or not _close(one["tokens"], two["tokens"]):
                    continue
                first, second = sorted([one, two], key=lambda r: -_number(r["epochs"]))
                item = _compare(first, second, validation, noise)
                item |= {
                    "objective": objective, "n_params": int(n_params),
                    "tokens": float(first["tokens"]), "epochs": [first["epochs"], second["epochs"]],
                    "corpora": [first["corpus"], second["corpus"]],
                    "turn": _turn(first["run_id"], curves),
                }  # fmt: skip
                item["text"] = (
                    f"{objective.upper()}, {int(n_params):,} parameters, {first['tokens']:.3g} "
                    "tokens: "
                    + _sentence(
                        item,
                        f"after {_times(first)} over {first['corpus']}",
                        f"after {_times(second)} over {second['corpus']}",
                    )
                    + _turn_words(item["turn"])
                )
                found.append(item)
    return found


def transfer(
    runs: pd.DataFrame, validation: Reader | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare runs that began from other weights with runs from scratch at equal total compute.

    The total counts the parent's FLOPs too (6 N D). The partner has the same objective, size and
    corpus and a total within 5 %. Returns the comparisons and a line per run without a partner.
    """
    usable = _finished(runs)
    noise = seed_noise(usable[usable["parent"] == ""])
    by_id = usable.set_index("run_id")
    found, unmatched = [], []
    for child in usable[usable["parent"] != ""].to_dict("records"):
        name = child["run_id"]
        if child["parent"] not in by_id.index:
            unmatched.append(f"{name}: its parent {child['parent']} is not among the finished runs")
            continue
        parent = by_id.loc[child["parent"]]
        total = child["flops_6nd"] + parent["flops_6nd"]
        rivals = usable[
            (usable["parent"] == "")
            & (usable["objective"] == child["objective"])
            & (usable["n_params"] == child["n_params"])
            & (usable["corpus"] == child["corpus"])
        ]
        rivals = rivals[[_close(value, total) for value in rivals["flops_6nd"]]]
        if rivals.empty:
            unmatched.append(
                f"{name}: no {child['objective']} run from scratch of the same size and corpus "
                f"has its total compute of {total:.3g} FLOPs"
            )
            continue
        distance = np.abs(np.log(rivals["flops_6nd"] / total))
        scratch = rivals.loc[distance.idxmin()].to_dict()
        item = _compare(child, scratch, validation, noise)
        share = parent["flops_6nd"] / total
        item |= {
            "objective": child["objective"], "from": parent["objective"],
            "parent": child["parent"], "n_params": int(child["n_params"]),
            "total_flops": float(total), "pretraining_share": float(share),
        }  # fmt: skip
        item["text"] = (
            f"{child['objective'].upper()}, {int(child['n_params']):,} parameters, {total:.3g} "
            "FLOPs in total: "
            + _sentence(
                item,
                f"with {share:.0%} of them spent on {parent['objective'].upper()} first",
                "from scratch",
            )
        )
        found.append(item)
    return found, unmatched


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    table = runs.copy()
    for name in ("status", "parent", "corpus", "architecture"):
        values = table[name] if name in table else pd.Series("", index=table.index)
        table[name] = values.astype(object).where(values.notna(), "").astype(str)
    for name in ("epochs", "loss_sd", "flops_6nd", "seed"):
        if name not in table:
            table[name] = np.nan
    table["flops_6nd"] = table["flops_6nd"].fillna(6.0 * table["n_params"] * table["tokens"])
    return table[table["status"].isin(["", "done"]) & np.isfinite(table["loss"])]


def _compare(
    first: dict[str, Any], second: dict[str, Any], validation: Reader | None, noise: Noise | None
) -> dict[str, Any]:
    """Return loss(first) - loss(second) with its 95 % interval and where that comes from."""
    difference = float(first["loss"] - second["loss"])
    paired = _paired(first["run_id"], second["run_id"], validation)
    if paired is not None:
        difference, error = paired
        basis = "paired by validation row"
    else:
        error = math.hypot(
            _number(first["loss_sd"], math.nan), _number(second["loss_sd"], math.nan)
        )
        basis = "loss_sd of both runs, unpaired"
    if noise is not None and noise.known:
        error = math.hypot(error, math.sqrt(2) * noise.sd)
        basis += "; seed noise from replicate seeds"
    else:
        basis += "; seed noise unknown and not included"
    ends = [difference - Z95 * error, difference + Z95 * error]
    if not math.isfinite(error):
        verdict, basis = "not resolved", "no standard error known"
    else:
        verdict = "lower" if ends[1] < 0 else "higher" if ends[0] > 0 else "not resolved"
    return {
        "runs": [first["run_id"], second["run_id"]],
        "losses": [float(first["loss"]), float(second["loss"])],
        "difference": difference,
        "ci95": ends,
        "basis": basis,
        "verdict": verdict,
    }


def _paired(first: str, second: str, validation: Reader | None) -> tuple[float, float] | None:
    """Return difference in nats a token and its standard error over rows (a ratio estimate)."""
    tables = [None if validation is None else validation(name) for name in (first, second)]
    if any(table is None for table in tables):
        return None
    # Masks and rows are fixed by the study, so equal rows hold equal tokens.
    both = tables[0].merge(tables[1], on=["row", "source", "tokens"], suffixes=("_1", "_2"))
    if len(both) < max(len(tables[0]), len(tables[1])) or len(both) < 2:
        return None
    gap = (both["nll_1"] - both["nll_2"]).to_numpy()
    tokens = both["tokens"].to_numpy()
    difference = gap.sum() / tokens.sum()
    spread = np.std(gap - difference * tokens, ddof=1) * math.sqrt(len(both)) / tokens.sum()
    return float(difference), float(spread)


def _turn(run_id: str, curves: Reader | None) -> dict[str, Any] | None:
    curve = None if curves is None else curves(run_id)
    if curve is None:
        return None
    points = curve[curve["split"] == "valid"].sort_values("tokens")
    if points.empty or points["loss"].isna().all():
        return None
    best = points.loc[points["loss"].idxmin()]
    rise = float(points["loss"].iloc[-1] - best["loss"])
    return {"tokens_at_least_loss": float(best["tokens"]), "least_loss": float(best["loss"]),
            "rise_since": rise}  # fmt: skip


def _turn_words(turn: dict[str, Any] | None) -> str:
    if turn is None or turn["rise_since"] <= 0:
        return ""
    return (f"; its validation loss was least at {turn['tokens_at_least_loss']:.3g} tokens and has "
            f"risen by {turn['rise_since']:.4f} since")  # fmt: skip


def _sentence(item: dict[str, Any], first: str, second: str) -> str:
    low, high = item["ci95"]
    side = "lower" if item["difference"] < 0 else "higher"
    gap = f"{abs(item['difference']):.4f} nats a token"
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"loss {first} is {side} by {gap} than {second}; not resolved, no error is known"
    ends = f"95 % interval {low:+.4f} to {high:+.4f}"
    if item["verdict"] == "not resolved":
        return f"loss {first} and {second} is not resolved ({side} by {gap}, {ends})"
    return f"loss {first} is {side} by {gap} than {second} ({ends})"


def _times(row: dict[str, Any]) -> str:
    epochs = _number(row["epochs"], math.nan)
    return "a pass" if not math.isfinite(epochs) else f"{epochs:.3g} epochs"


def _number(value: Any, unknown: float = 0.0) -> float:
    return unknown if value is None or not math.isfinite(float(value)) else float(value)


def _close(one: float, two: float) -> bool:
    return abs(math.log(one / two)) <= SAME
