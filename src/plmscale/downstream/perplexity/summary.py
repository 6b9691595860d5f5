"""From nats by residue to perplexities by identity, with intervals, and natural against controls.

A perplexity is exp(sum of nats / number of residues) over the proteins of a group. Only the 20
standard residues count, so that models with other tokens for the rest are on equal terms.
Intervals are from drawing whole proteins again within their strata; residues of one protein are not
independent. The kind of model is part of a metric's name: a CLM's and an MLM's are never compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from plmscale.corpus.alphabet import STANDARD, encode
from plmscale.corpus.stats import IDENTITY_BINS, identity_bins
from plmscale.downstream.base import Metric, Predictions
from plmscale.errors import PlmscaleError

COLUMNS = ("id", "split", "nats", "sequence", "control", "natural", "stratum", "weight",
           "identity", "identity_known")  # fmt: skip
UNKNOWN = "identity unknown"
# Groups beside the bins: name, lowest and highest (excluded) identity; None counts no hit, too.
# Below 0.5 and below 0.9 are what the paper calls out of distribution (Cheng et al. 2024).
RANGES = (("below 0.5", None, 0.5), ("below 0.9", None, 0.9), ("0.5 and above", 0.5, 2.0))
_CHUNK = 250


def metrics(predictions: Predictions, replicates: int) -> Iterator[Metric]:
    """Yield, for each split: nats and perplexity of all, of each bin of identity and of RANGES, with
    counts; the mean of proteins; and how much less likely controls are than their natural twins.

    Where the model is not known to have been trained on the corpus, bins are not primary and their
    definition says so. NaN nats give NaN.
    """
    rows, kind, words = _read(predictions)
    about = predictions.about
    for split, members in rows.groupby("split", sort=False):
        natural = members[members["control"] == ""]
        for group, told, trusted, part in _groups(natural, about):
            yield from _perplexity(str(split), group, kind, words + told, trusted, part, replicates)
        yield _by_protein(str(split), kind, words, natural)
        for control in dict.fromkeys(members["control"]):
            if control:
                pairs = _paired(natural, members[members["control"] == control])
                yield _gap(str(split), control, kind, words, pairs, replicates)


def differences(first: Predictions, second: Predictions, replicates: int) -> Iterator[Metric]:
    """Yield nats and perplexity of the first minus those of the second, for each split and group.

    Each replicate draws the same proteins for both; groups are by the first's identities. The second
    is of the same kind, or a baseline. PlmscaleError unless both are of the same proteins, masked
    alike.
    """
    rows, kind, words = _read(first)
    others, other, how = _read(second)
    if second.about.get("model") and (kind, words) != (other, how):
        raise PlmscaleError(
            f"perplexity: {kind} ({words}) against {other} ({how}): different quantities; compare "
            "models of one kind, with the same option masks"
        )
    both = rows[rows["control"] == ""].merge(
        others[["id", "total", "residues"]], on="id", suffixes=("", "_other"), validate="1:1"
    )
    if len(both) != (rows["control"] == "").sum() or len(both) != (others["control"] == "").sum():
        raise PlmscaleError(
            "perplexity: the two predictions are of other proteins; make both of the same data"
        )
    for split, natural in both.groupby("split", sort=False):
        for group, told, trusted, part in _groups(natural, first.about):
            columns = part[["total", "residues", "total_other", "residues_other"]].to_numpy()
            for name, statistic in (("nats", _minus), ("perplexity", _minus_exp)):
                value, drawn = _resampled(columns, part, statistic, replicates)
                yield Metric(
                    split=str(split),
                    group=group,
                    metric=f"{name}_{kind}",
                    definition=("exp of " if name == "perplexity" else "") + words + told,
                    value=value,
                    n=len(part),
                    primary=trusted and name == "perplexity",
                    higher_is_better=False,
                    **_interval(drawn),
                )


def _minus(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]


def _minus_exp(sums: np.ndarray) -> np.ndarray:
    return np.exp(sums[..., 0] / sums[..., 1]) - np.exp(sums[..., 2] / sums[..., 3])


def _read(predictions: Predictions) -> tuple[pd.DataFrame, str, str]:
    """Return rows with total (nats) and residues, the model's kind, and the definition of nats."""
    missing = [name for name in COLUMNS if name not in predictions.table.column_names]
    if missing:
        raise PlmscaleError(
            f"perplexity: the predictions lack the column {missing[0]}; make them again"
        )
    rows = predictions.table.select(COLUMNS).to_pandas()
    sums = [_standard(s, n) for s, n in zip(rows["sequence"], rows["nats"])]
    rows["total"], rows["residues"] = np.array(sums, float).reshape(-1, 2).T
    # What has no standard residue has no nats either.
    rows = rows[rows["residues"] > 0].drop(columns=["nats", "sequence"])
    about = predictions.about
    model = about.get("model")
    kind = model["kind"] if model else str(about["method"]).removeprefix("baseline:")
    words = "nats a standard residue, begin and end not counted"
    if kind == "mlm":
        sets = about["options"]["masks"]
        words += f", masked in {sets} sets" if sets else ", masked one at a time"
    return rows, kind, words


def _standard(sequence: str, nats: np.ndarray) -> tuple[float, int]:
    """Return the sum of nats over the standard residues of a protein, and their number."""
    tokens = encode(sequence)
    chosen = (tokens >= 4) & (tokens < 4 + len(STANDARD))
    if len(nats) != len(tokens):
        raise PlmscaleError(
            f"perplexity: {len(nats)} nats for {len(tokens)} residues; make the predictions again"
        )
    return float(np.asarray(nats)[chosen].sum(dtype=np.float64)), int(chosen.sum())


def _groups(natural: pd.DataFrame, about: dict) -> Iterator[tuple[str, str, bool, pd.DataFrame]]:
    """Yield (group, what to add to the definition, whether it may be shown, rows)."""
    yield "all", "", True, natural
    if not natural["identity_known"].all():
        yield UNKNOWN, "", False, natural[~natural["identity_known"]]
    known = natural[natural["identity_known"]]
    if known.empty:
        return
    corpus = about["corpus"]
    trusted = corpus["trained_on"] in ("yes", "no")
    told = f"; identity to {', '.join(corpus['sources'])} of corpus {corpus['key'][:12]}"
    if corpus["trained_on"] == "unknown":
        told += ", not known to be what the model was trained on"
    elif not trusted:
        told += ", while the model was trained on another mix of its sources"
    identity = known["identity"].to_numpy(np.float32)
    which = identity_bins(identity)
    for number, name in enumerate(IDENTITY_BINS):
        if (which == number).any():
            yield name, told, trusted, known[which == number]
    for name, low, high in RANGES:
        filled = np.where(np.isnan(identity), np.float32(-1), identity)
        chosen = filled < np.float32(high)
        if low is not None:
            chosen &= filled >= np.float32(low)
        if chosen.any():
            yield name, told, trusted, known[chosen]


def _perplexity(
    split: str,
    group: str,
    kind: str,
    words: str,
    trusted: bool,
    rows: pd.DataFrame,
    replicates: int,
) -> Iterator[Metric]:
    """Yield nats, perplexity and residues of a group."""

    def nats(sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / sums[..., 1]

    columns = rows[["total", "residues"]].to_numpy()
    value, drawn = _resampled(columns, rows, nats, replicates)
    shared = {"split": split, "group": group, "n": len(rows), "higher_is_better": False}
    yield Metric(**shared, metric=f"nats_{kind}", definition=words, value=value, **_interval(drawn))
    yield Metric(
        **shared,
        metric=f"perplexity_{kind}",
        definition=f"exp of {words}",
        value=float(np.exp(value)),
        primary=trusted,
        **_interval(None if drawn is None else np.exp(drawn)),
    )
    yield Metric(
        **{**shared, "higher_is_better": True},
        metric="residues",
        definition="standard residues scored",
        value=float(rows["residues"].sum()),
    )


def _by_protein(split: str, kind: str, words: str, rows: pd.DataFrame) -> Metric:
    """Return exp of the mean over proteins of their mean nats: long proteins weigh no more."""
    means = rows["total"] / rows["residues"]
    value = float(np.exp(np.average(means, weights=rows["weight"])))
    return Metric(
        split=split,
        group="all",
        metric=f"perplexity_{kind}",
        definition=f"exp of {words}; every protein weighs the same",
        value=value,
        n=len(rows),
        higher_is_better=False,
    )


def _paired(natural: pd.DataFrame, control: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each control, with total and residues of it (_control) and its natural."""
    chosen = control[["natural", "total", "residues"]]
    return natural.merge(
        chosen, left_on="id", right_on="natural", suffixes=("", "_control"), validate="1:1"
    )


def _gap(
    split: str, control: str, kind: str, words: str, pairs: pd.DataFrame, replicates: int
) -> Metric:
    """Return nats of controls minus nats of the natural proteins they were made of."""

    columns = pairs[["total_control", "residues_control", "total", "residues"]].to_numpy()
    value, drawn = _resampled(columns, pairs, _minus, replicates)
    return Metric(
        split=split,
        group=control,
        metric=f"nats_over_natural_{kind}",
        definition=f"{control} minus natural, paired; {words}",
        value=value,
        n=len(pairs),
        **_interval(drawn),
    )


def _resampled(
    columns: np.ndarray,
    rows: pd.DataFrame,
    statistic: Callable[[np.ndarray], np.ndarray],
    replicates: int,
) -> tuple[float, np.ndarray | None]:
    """Return the statistic of weighted sums of `columns` (n, k), and of `replicates` samples.

    Proteins are drawn with replacement within each stratum; strata with one protein are put
    together. The statistic takes sums (..., k). None for fewer than two proteins.
    """
    weighted = columns * rows["weight"].to_numpy()[:, None]
    value = float(statistic(weighted.sum(axis=0)))
    if len(rows) < 2 or not np.isfinite(value):
        return value, None
    size = rows.groupby("stratum")["stratum"].transform("size")
    strata = rows["stratum"].where(size > 1, "").to_numpy()
    rng = np.random.default_rng(0)
    sums = np.zeros((replicates, columns.shape[1]))
    for stratum in dict.fromkeys(strata):
        members = weighted[strata == stratum]
        for start in range(0, replicates, _CHUNK):
            count = min(_CHUNK, replicates - start)
            picked = rng.integers(0, len(members), (count, len(members)))
            sums[start : start + count] += members[picked].sum(axis=1)
    return value, statistic(sums)


def _interval(drawn: np.ndarray | None) -> dict:
    if drawn is None:
        return {}
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    return {"se": float(drawn.std(ddof=1)), "ci95": (low, high)}
