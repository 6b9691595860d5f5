"""Sentences of the report, made from the data: what is known, how well, and what is not.

An interval that says nothing is never softened into a result. "C^0.58" becomes a raised exponent
where the report is rendered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from plmscale.figures import lawview
from plmscale.figures.findview import Difference
from plmscale.figures.lawview import PowerLaw
from plmscale.figures.style import OBJECTIVE_NAME, flops_text, interval_text, si

PAPER_LEAST = 1e18
"""Smallest budget of Cheng et al. 2024, in FLOPs."""

SAYS_NOTHING = 1.0
"""An interval of an exponent this wide covers every answer from "no growth" to "all of it"."""


def resolved(interval: tuple[float, float] | None) -> bool:
    """Return whether an exponent's interval is bounded and narrower than SAYS_NOTHING."""
    if interval is None or not all(map(math.isfinite, interval)):
        return False
    return interval[1] - interval[0] < SAYS_NOTHING


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign and a true minus: "+0.031", "−0.004"."""
    return f"{value:+.{digits}f}".replace("-", "−")


def spread(interval: tuple[float, float] | None, digits: int = 2) -> str:
    """Return an interval for a text: "95 % interval 0.41 to 0.78"."""
    if interval is None:
        return "no interval could be given"
    return f"95 % interval {interval_text(interval, digits)}".replace("-", "−")


def budgets_phrase(budgets: Sequence[float]) -> str:
    """Return "with budgets from 10¹¹ to 3×10¹² FLOPs", or what there is to say with fewer."""
    known = sorted(set(budgets))
    if not known:
        return "with these runs"
    if len(known) == 1:
        return f"at the single budget of {flops_text(known[0])} FLOPs"
    return f"with budgets from {flops_text(known[0])} to {flops_text(known[-1])} FLOPs"


def exponent_sentence(objective: str, n_law: PowerLaw | None, d_law: PowerLaw | None) -> str:
    """Say how the best size and tokens grow with compute, or that it is not resolved."""
    name = OBJECTIVE_NAME.get(objective, objective)
    if n_law is None:
        return f"No law could be fitted for {name}: see the warnings for the reason."
    power = f"C^{n_law.exponent:.2f}".replace("-", "−")
    if not resolved(n_law.interval):
        grows = n_law.interval is not None and n_law.interval[0] > 0
        verdict = "it shows no more than that the size grows" if grows else "it says nothing"
        return (
            f"How the best {name} size grows with compute is not resolved: the estimate is "
            f"{power}, but with {spread(n_law.interval)} {verdict}."
        )
    text = f"The best {name} size grows as {power} ({spread(n_law.interval)})"
    if d_law is not None:
        text += f", the best number of tokens as C^{d_law.exponent:.2f}".replace("-", "−")
        text += f" ({interval_text(d_law.interval)})".replace("-", "−")
    return text + "."


def growth_sentence(n_law: PowerLaw | None) -> str:
    """Say what the exponent means for ten times the compute; "" where it is not resolved."""
    if n_law is None or not resolved(n_law.interval):
        return ""
    low, high = n_law.interval
    if low <= 0 <= high:
        return "The interval holds zero: that the best size grows at all is not shown."
    fold = [f"{10**value:.2g}" for value in (n_law.exponent, low, high)]
    return f"Ten times the compute asks for {fold[0]} times the size ({fold[1]} to {fold[2]})."


def optimum_sentence(objective: str, entry: dict[str, Any] | None) -> str:
    """Say what the best model of the largest budget is, with the interval of its size."""
    minima = lawview.points(entry)
    minima = minima[np.isfinite(minima["N_opt"]) & minima["used"].astype(bool)]
    if minima.empty:
        return ""
    best = minima.iloc[-1]
    name = OBJECTIVE_NAME.get(objective, objective)
    text = (
        f"At {flops_text(best['budget'])} FLOPs the best {name} has about {si(best['N_opt'], 2)} "
        f"parameters, trained on {si(best['D_opt'], 2)} tokens"
    )
    pair = lawview.point_interval(best.to_dict(), "N_opt")
    if pair and all(map(math.isfinite, pair)):
        # A model has at least one parameter: an interval that reaches below has no lower end.
        size = (
            f"at most {si(pair[1], 2)}" if pair[0] < 1 else f"{si(pair[0], 2)} to {si(pair[1], 2)}"
        )
        text += f" (95 % of the size: {size})"
    if bool(best["at_edge"]):
        text += ", but that is the edge of the sizes tried: the true optimum may lie beyond"
    return text + "."


def method_sentence(laws: dict[str, Any]) -> str:
    """Say which method the numbers of the text come from; "" when no law was fitted."""
    spoken = {o: lawview.preferred(laws, o) for o in lawview.objectives(laws)}
    names = {o: _method(method) for o, method in spoken.items() if method}
    if not names:
        return ""
    if len(set(names.values())) == 1:
        return (
            f"The numbers above come from the method “{next(iter(names.values()))}”; "
            "the table and the figure of exponents show the others."
        )
    parts = [f"“{method}” for {OBJECTIVE_NAME.get(o, o)}" for o, method in names.items()]
    return f"The numbers above come from the methods {' and '.join(parts)}."


def edges_sentence(objective: str, entry: dict[str, Any] | None) -> str:
    """Say how many minima lie at an edge of the sizes; "" when none does."""
    minima = lawview.points(entry)
    at_edge = int(minima["at_edge"].astype(bool).sum())
    if not at_edge:
        return ""
    name = OBJECTIVE_NAME.get(objective, objective)
    verb = "lies" if at_edge == 1 else "lie"
    text = f"{at_edge} of the {len(minima)} {name} minima {verb} at or beyond the edge of the sizes"
    leaning = int((minima["at_edge"].astype(bool) & minima["used"].astype(bool)).sum())
    if leaning:
        return text + " tried, so the law leans on optima that were not bracketed."
    return text + f" tried; the law goes through the other {len(minima) - at_edge} only."


def agreement_sentence(objective: str, entries: dict[str, dict[str, Any]]) -> str:
    """Say how far the methods agree on the size exponent; "" with fewer than two methods."""
    found = {
        name: law.exponent
        for name, entry in entries.items()
        if (law := lawview.power_law(entry, "N_opt")) is not None
    }
    if len(found) < 2:
        return ""
    low, high = min(found, key=found.get), max(found, key=found.get)
    name = OBJECTIVE_NAME.get(objective, objective)
    text = (
        f"Over {len(found)} ways to fit, the {name} size exponent runs from {found[low]:.2f} "
        f"({_method(low)}) to {found[high]:.2f} ({_method(high)})"
    ).replace(" -", " −")
    widths = [
        law.interval[1] - law.interval[0]
        for entry in entries.values()
        if (law := lawview.power_law(entry, "N_opt")) is not None and law.interval
    ]
    if widths and found[high] - found[low] > max(widths):
        text += ": further apart than any of their intervals is wide, so the choice of method"
        return text + " matters most."
    return text + "."


def _method(name: str) -> str:
    return lawview.METHODS.get(name, name)


def objectives_sentence(clm: PowerLaw | None, mlm: PowerLaw | None) -> str:
    """Say whether MLM asks for faster growing models than CLM does, as the paper found."""
    if clm is None or mlm is None:
        return ""
    if clm.sample is None or mlm.sample is None:
        return ""
    if min(len(clm.sample), len(mlm.sample)) < 20:
        return ""
    # The two bootstraps know nothing of each other, so every pair of draws counts.
    gaps = np.subtract.outer(mlm.sample[:, 1], clm.sample[:, 1])
    low, high = np.quantile(gaps, [0.025, 0.975])
    gap = f"{signed(mlm.exponent - clm.exponent, 2)}, 95 % {signed(low, 2)} to {signed(high, 2)}"
    if not (resolved(clm.interval) and resolved(mlm.interval)) or low <= 0 <= high:
        return (
            "Whether the best size grows faster for MLM than for CLM, as the paper found, "
            f"is not resolved here (difference of the exponents {gap})."
        )
    faster = "faster" if low > 0 else "more slowly"
    agrees = "as" if low > 0 else "unlike what"
    return (
        f"The best size grows {faster} for MLM than for CLM (difference of the exponents {gap}), "
        f"{agrees} the paper found."
    )


def published_sentence(objective: str, law: PowerLaw | None) -> str:
    """Say whether the paper's exponent lies in the interval; "" where there is no law."""
    if law is None or objective not in lawview.PUBLISHED:
        return ""
    paper = lawview.PUBLISHED[objective]["N_opt"][1]
    name = OBJECTIVE_NAME[objective]
    if not resolved(law.interval):
        return f"{name}: the paper's {paper:.3f} can be neither confirmed nor contradicted."
    low, high = law.interval
    where = "inside" if low <= paper <= high else "outside"
    return f"{name}: the paper's {paper:.3f} lies {where} our interval ({low:.2f} to {high:.2f})."


def distance_sentence(grid: pd.DataFrame) -> str:
    """Say why a study below the paper's budgets may differ from it; "" from 1e18 FLOPs on."""
    best = grid.groupby(["objective", "budget"])["loss"].min()
    if best.empty or (largest := best.index.get_level_values("budget").max()) >= PAPER_LEAST:
        return ""
    text = (
        f"The paper's smallest budget, {flops_text(PAPER_LEAST)} FLOPs, is "
        f"{flops_text(PAPER_LEAST / largest)} times the largest one here, and its corpus holds "
        "194 billion residues. "
    )
    gained = best.groupby("objective").agg(lambda losses: losses.iloc[0] - losses.iloc[-1])
    budgets = grid["budget"].nunique()
    if budgets > 1:
        name = OBJECTIVE_NAME.get(gained.idxmax(), gained.idxmax())
        text += (
            f"Here all the way from the smallest to the largest budget lowers the best loss by no "
            f"more than {gained.max():.3f} nats per token ({name}). "
        )
    return text + (
        "Models this small learn little more than which residues are frequent and which follow "
        "each other, and learning rate and batch size weigh as much as size, so agreement or "
        "disagreement of exponents over such a distance says little about either study."
    )


def repetition_sentence(item: Difference) -> str:
    """Say what reading one corpus more often costs against another, at equal tokens."""
    name = OBJECTIVE_NAME.get(item.objective, item.objective)
    corpora = [_often(item, 0), _often(item, 1)]
    return _difference(
        item,
        subject=f"{name}, equal tokens: training on {corpora[0]} instead of {corpora[1]}",
        same="makes no difference that this comparison could see",
    )


def _often(item: Difference, index: int) -> str:
    corpus = item.corpora[index] if index < len(item.corpora) else "another corpus"
    epochs = item.epochs[index] if index < len(item.epochs) else None
    return f"“{corpus}”" if epochs is None else f"“{corpus}” ({epochs:.2g} epochs)"


def transfer_sentence(item: Difference) -> str:
    """Say what starting from another objective's weights brings at equal total compute."""
    name = OBJECTIVE_NAME.get(item.objective, item.objective)
    source = OBJECTIVE_NAME.get(item.source, item.source or "other")
    first = "starting with" if item.share is None else f"spending {item.share * 100:.0f} % of it on"
    return _difference(
        item,
        subject=f"{name}, equal total compute: {first} {source} first, not all from scratch,",
        same="makes no difference that this comparison could see",
    )


def _difference(item: Difference, subject: str, same: str) -> str:
    size = f" at {si(item.n_params)} parameters" if item.n_params else ""
    if item.interval is None:
        change = f"changed the loss by {signed(item.delta)} nats per token"
        return f"{subject} {change}{size}; without an interval this is no finding."
    span = f"95 % {signed(item.interval[0])} to {signed(item.interval[1])}"
    if not item.resolved:
        return f"{subject} {same}{size}: {signed(item.delta)} nats per token ({span})."
    verb = "raises" if item.delta > 0 else "lowers"
    return f"{subject} {verb} the loss by {abs(item.delta):.3f} nats per token{size} ({span})."


def basis_sentence(items: Sequence[Difference]) -> str:
    """Say what the intervals of the comparisons hold; "" without comparisons."""
    bases = list(dict.fromkeys(item.basis for item in items if item.basis))
    if not bases:
        return ""
    return f"Intervals of the comparisons of two runs: {' / '.join(bases)}."


def runs_sentence(statuses: Iterable[str], excluded: int) -> str:
    """Say how many runs there are, how they ended and how many no law uses."""
    ends = ["done" if status in ("", "done") else status for status in statuses]
    total, good = len(ends), ends.count("done")
    if not total:
        return "There are no runs."
    text = f"{total} models were trained" if good == total else f"Of {total} runs {good} ended well"
    for status in sorted(set(ends) - {"done"}):
        text += f", {ends.count(status)} {status.replace('_', ' ')}"
    if excluded:
        verb = "enters" if excluded == 1 else "enter"
        text += f"; {excluded} {verb} no law (listed below, with the reason)"
    return text + "."


def time_sentence(parts: dict[str, float]) -> str:
    """Say what share of the runs' time went into training steps. `parts` are seconds."""
    total = sum(parts.values())
    if not total > 0:
        return "No timings were recorded."
    share = parts.get("train_seconds", 0.0) / total * 100
    return (
        f"The runs took {duration(total)} of process time in all, "
        f"{share:.0f} % of it inside training steps."
    )


def duration(seconds: float) -> str:
    """Return a time span people can read: 75 -> "1.3 min"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
