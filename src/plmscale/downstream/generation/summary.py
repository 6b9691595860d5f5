"""Metrics of generated proteins beside those of natural, shuffled and unigram ones.

Every set has its row, the controls too: a number means something only beside them. Lengths and
compositions are distances from the reference, natural proteins that are in no other set, cut at the
same greatest length; what `natural` has there is what chance alone gives. What was not done on this
machine is a row without a value whose definition says why.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from plmscale.downstream.base import Metric, Predictions
from plmscale.downstream.generation import estimates, tables
from plmscale.downstream.generation.estimates import Array, Estimate
from plmscale.downstream.generation.searches import USABLE
from plmscale.downstream.generation.tables import Table
from plmscale.errors import PlmscaleError

COPIED = 0.9
CONFIDENT, NOVEL = 70.0, 0.5
_GENERATED = "generated"


@dataclass(frozen=True)
class Rule:
    """How the metrics are computed. clusters_of: proteins that clusters are counted for."""

    replicates: int
    clusters_of: int


@dataclass(frozen=True)
class Kind:
    """One metric. compute: a set -> its number. of_generated: only of generated sets."""

    name: str
    definition: str
    compute: Callable[[_Set], Estimate]
    primary: bool = False
    higher_is_better: bool = False
    of_generated: bool = False


# Neither way is better: random proteins have the most clusters, copies the nearest relatives. So no
# model is called better than its twin by them.
_UNJUDGED = ("length", "js_residues_plain", "js_dipeptides_plain", "nearest_identity",
             "clusters_50", "nats_clm", "tm_to_pdb")  # fmt: skip


class _Set:
    """A set of proteins, and the reference, with their bootstrap draws.

    The reference is drawn alike for every set and model; a set by its own name.
    """

    def __init__(self, rows: pd.DataFrame, reference: pd.DataFrame, rule: Rule, name: str) -> None:
        self.rows, self.reference, self.rule = rows, reference, rule
        self.drawn = estimates.draws(len(rows), rule.replicates, zlib.crc32(name.encode()))
        self.other = estimates.draws(len(reference), rule.replicates, 0)

    def column(self, name: str) -> Array:
        return self.rows[name].to_numpy(float)

    def mean(self, column: str) -> Estimate:
        """Return the mean over proteins of a column in which nothing found is NaN and counts 0."""
        values = np.nan_to_num(self.column(column))
        return estimates.ratio(values, np.ones(len(values)), self.drawn)

    def ratio(self, part: str, whole: str) -> Estimate:
        parts = (np.nan_to_num(self.column(name)) for name in (part, whole))
        return estimates.ratio(*parts, self.drawn)

    def some(self, keep: pd.Series) -> _Set:
        """Return the set of the rows for which `keep` is true."""
        chosen = object.__new__(_Set)
        chosen.rows, chosen.reference, chosen.rule = self.rows[keep], self.reference, self.rule
        chosen.drawn, chosen.other = self.drawn[:, keep.to_numpy(bool)], self.other
        return chosen

    def js(self, counts: Callable[[pd.DataFrame], Array]) -> Estimate:
        first, second = counts(self.rows), counts(self.reference)
        return estimates.jensen_shannon(first, second, self.drawn, self.other)

    def plain_js(self, counts: Callable[[pd.DataFrame], Array]) -> Estimate:
        value = estimates.divergence(counts(self.rows), counts(self.reference))
        return Estimate(value, len(self.rows))

    def ks(self) -> Estimate:
        lengths = self.column("length"), self.reference["length"].to_numpy(float)
        return estimates.kolmogorov_smirnov(*lengths, self.drawn, self.other)

    def flagged(self, flags: pd.Series) -> Estimate:
        return estimates.share(flags.to_numpy(bool))


def kinds(table: Table, rule: Rule) -> list[Kind]:
    """Return all metrics, in the order of tables."""
    cut = f"at most {table.max_length} residues"
    apart = f"from natural held-out proteins, {cut}"
    divergence = f"Jensen-Shannon divergence in nats {apart}"
    corpus = table.about["corpus"]
    to = ", ".join(corpus["sources"]) or "a corpus"
    known = corpus["trained_on"] in ("yes", "no")
    to += f" of corpus {corpus['key'][:12]}" if corpus["key"] else ""
    to += "" if known else ", not known to be what the model was trained on"
    folded = table.told["structures"].get("how", "")
    return [
        Kind("ks_length", f"Kolmogorov-Smirnov distance of lengths {apart}", _Set.ks, primary=True),
        Kind("length", f"mean residues, {cut}", lambda s: s.mean("length"), higher_is_better=True),
        Kind("js_residues", f"{divergence}, less chance", lambda s: s.js(tables.residue_counts)),
        Kind("js_residues_plain", divergence, lambda s: s.plain_js(tables.residue_counts)),
        Kind("js_dipeptides", f"{divergence}, less chance",
             lambda s: s.js(tables.dipeptide_counts)),
        Kind("js_dipeptides_plain", divergence, lambda s: s.plain_js(tables.dipeptide_counts)),
        Kind("unterminated", f"share of proteins without an end within {table.max_length} residues",
             lambda s: s.flagged(~s.rows["terminated"].astype(bool))),
        Kind("empty", "share of proteins without a residue",
             lambda s: s.flagged(s.rows["length"] == 0), of_generated=True),
        Kind("duplicates", "share of proteins that are letter by letter an earlier one of the set; "
             "empty ones not counted", _duplicates),
        Kind("low_complexity", "share of residues in repeats (tantan)",
             lambda s: s.ratio("masked", "counted")),
        Kind("low_complexity_proteins", "share of proteins with half of their residues in repeats",
             lambda s: s.flagged(s.rows["masked"] * 2 >= s.rows["counted"].replace(0, np.nan))),
        Kind("copied", f"share of proteins within a training protein, or at identity {COPIED} over "
             f"0.8 of it; to {to}", _copied),
        Kind("nearest_identity", f"mean identity to the nearest training protein, none counts 0; to "
             f"{to}", lambda s: s.mean("train_identity"),
             higher_is_better=True),
        Kind("nearest_held_out", "mean identity to the nearest other held-out protein, none counts 0",
             lambda s: s.mean("held_out_identity"),
             higher_is_better=True),
        Kind("clusters_50", f"expected clusters at identity 0.5 over 0.8 of both among "
             f"{rule.clusters_of} proteins of {USABLE} residues or more", _clusters,
             higher_is_better=True),
        Kind("nats_clm", "nats a residue by the model itself, end not counted", _nats),
        Kind("plddt", f"mean over proteins of pLDDT of C-alpha, 0 to 100; {folded}",
             lambda s: _of_folded(s, "plddt"), higher_is_better=True),
        Kind("plddt_70", f"share of proteins with pLDDT of {CONFIDENT:g} or more; {folded}",
             lambda s: _flagged_folded(s, lambda rows: rows["plddt"] >= CONFIDENT),
             higher_is_better=True),
        Kind("tm_to_pdb", f"mean highest TM-score to a known structure, none counts 0; {folded}",
             lambda s: _of_folded(s, "tm"), higher_is_better=True),
        Kind("confident_and_novel", f"share of proteins with pLDDT of {CONFIDENT:g} or more and "
             f"TM-score below {NOVEL}; {folded}",
             lambda s: _flagged_folded(
                 s, lambda rows: (rows["plddt"] >= CONFIDENT) & (rows["tm"].fillna(0) < NOVEL)),
             higher_is_better=True),
    ]  # fmt: skip


def metrics(predictions: Predictions, rule: Rule) -> Iterator[Metric]:
    """Yield the metrics of each set, and one row for each that was not run."""
    table = tables.read(predictions)
    every = kinds(table, rule)
    for (split, group), rows in table.sets.items():
        chosen = _Set(rows, table.reference, rule, f"{split}/{group}")
        for kind in _run(every, table, split):
            yield _metric(split, group, kind, kind.compute(chosen))
    for kind in every:
        if kind.name in table.missing:
            reason = f"not run: {table.missing[kind.name]}"
            yield Metric(_GENERATED, "all", kind.name, reason, math.nan, 0,
                         higher_is_better=kind.higher_is_better)  # fmt: skip


def differences(first: Predictions, second: Predictions, rule: Rule) -> Iterator[Metric]:
    """Yield first minus second of each generated set, of metrics that have a better and a worse.

    Protein i of both was made with the same random numbers, so the bootstrap draws them as a pair.
    Raises PlmscaleError unless both have the same settings, controls and greatest length.
    """
    one, other = tables.read(first), tables.read(second)
    same = [(list(t.reference["id"]), t.max_length, list(t.sets)) for t in (one, other)]
    if same[0] != same[1]:
        raise PlmscaleError(
            "generation: the two predictions have other settings, natural proteins or greatest "
            "lengths; make both with the same options (max_length: what both models can take)"
        )
    rest = {kind.name: kind for kind in kinds(other, rule) if kind.name not in other.missing}
    for (split, group), rows in one.sets.items():
        if split != _GENERATED:
            continue
        mine = _Set(rows, one.reference, rule, f"{split}/{group}")
        theirs = _Set(other.sets[split, group], other.reference, rule, f"{split}/{group}")
        for kind in _run(kinds(one, rule), one, split):
            if kind.name in rest and kind.name not in _UNJUDGED:
                found = estimates.minus(kind.compute(mine), rest[kind.name].compute(theirs))
                yield _metric(split, group, kind, found)


def _run(every: list[Kind], table: Table, split: str) -> Iterator[Kind]:
    for kind in every:
        if kind.name not in table.missing and not (kind.of_generated and split != _GENERATED):
            yield kind


def _metric(split: str, group: str, kind: Kind, found: Estimate) -> Metric:
    return Metric(
        split=split,
        group=group,
        metric=kind.name,
        definition=kind.definition,
        value=found.value,
        n=found.n,
        se=found.se,
        ci95=found.ci95,
        primary=kind.primary and split == _GENERATED,
        higher_is_better=kind.higher_is_better,
    )


def _duplicates(chosen: _Set) -> Estimate:
    sequences = chosen.rows["sequence"]
    return chosen.flagged(sequences[sequences != ""].duplicated())


def _copied(chosen: _Set) -> Estimate:
    rows = chosen.rows
    exact = rows["copied"].map(lambda flag: flag is True or flag == 1)
    return chosen.flagged(exact | (rows["train_identity"] >= np.float32(COPIED)))


def _clusters(chosen: _Set) -> Estimate:
    usable = chosen.rows[chosen.rows["cluster"] >= 0]
    sizes = usable.groupby("cluster").size().to_numpy(np.int64)
    return estimates.expected_clusters(sizes, chosen.rule.clusters_of)


def _nats(chosen: _Set) -> Estimate:
    some = chosen.some(chosen.rows["prediction"].notna())
    lengths = some.column("length")
    return estimates.ratio(some.column("prediction") * lengths, lengths, some.drawn)


def _of_folded(chosen: _Set, column: str) -> Estimate:
    some = chosen.some(chosen.rows["plddt"].notna())
    return some.mean(column)


def _flagged_folded(chosen: _Set, flags: Callable[[pd.DataFrame], pd.Series]) -> Estimate:
    rows = chosen.rows[chosen.rows["plddt"].notna()]
    return estimates.share(flags(rows).to_numpy(bool))
