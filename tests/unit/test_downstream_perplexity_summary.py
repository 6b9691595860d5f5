"""Perplexities, intervals and differences from nats that were made up, against known answers."""

from __future__ import annotations

import math

import heldout_example as example
import numpy as np
import pyarrow as pa
import pytest

from plmscale.downstream.base import Predictions
from plmscale.downstream.tasks.perplexity import TASK, Options
from plmscale.errors import PlmscaleError

NAN = math.nan


def by(metrics):
    return {(m.split, m.group, m.metric, m.definition.endswith("the same")): m for m in metrics}


def table(rows, kind="clm", trained_on="yes"):
    """Predictions of (id, split, sequence, nats a residue, control, natural, weight, identity)."""
    names = ("id", "split", "sequence", "nats", "control", "natural", "weight", "identity")
    columns = dict(zip(names, zip(*rows)))
    columns["nats"] = [[n] * len(s) if np.isscalar(n) else list(n) for n, s in zip(columns["nats"], columns["sequence"])]  # fmt: skip
    columns |= {"group": ["one"] * len(rows), "target": [None] * len(rows)}
    columns |= {"prediction": [float(np.mean(n)) for n in columns["nats"]]}
    columns |= {"stratum": ["s"] * len(rows), "identity_known": [True] * len(rows)}
    made = pa.table({name: pa.array(list(values)) for name, values in columns.items()})
    about = {
        "method": "zero-shot",
        "model": {"kind": kind},
        "options": {"masks": 0},
        "corpus": {"key": example.KEY, "sources": ["one"], "trained_on": trained_on},
    }
    return Predictions(made, about)


def test_perplexities_by_hand():
    """Sums over residues, weighted; bins and ranges; only standard residues count."""
    rows = [
        ("a", "valid", "AAAA", 1.0, "", "", 1.0, NAN),
        ("b", "valid", "CC", 4.0, "", "", 3.0, 0.3),
        ("c", "valid", "WXXW", (2.0, 90.0, 90.0, 3.0), "", "", 1.0, 0.5),
        ("d", "valid", "XX", 50.0, "", "", 1.0, 0.95),
        ("a:s", "valid", "AAAA", 1.5, "shuffled", "a", 1.0, NAN),
    ]
    found = by(TASK.score(table(rows), Options(replicates=50)))
    values = {
        "all": (4 + 3 * 8 + 5) / (4 + 3 * 2 + 2),
        "no hit": 1,
        "0.3-0.5": 4,
        "0.5-0.9": 2.5,
        "below 0.5": (4 + 24) / 10,
        "below 0.9": 33 / 12,
        "0.5 and above": 2.5,
    }
    nats = {group: m.value for (_, group, name, _), m in found.items() if name == "nats_clm"}
    assert nats == pytest.approx(values)
    perplexity = found["valid", "below 0.5", "perplexity_clm", False]
    assert perplexity.value == pytest.approx(math.exp(2.8)) and perplexity.primary
    assert found["valid", "all", "residues", False].value == 8
    # Every protein weighs the same: means 1, 4 (three times) and 2.5.
    by_protein = found["valid", "all", "perplexity_clm", True].value
    assert by_protein == pytest.approx(math.exp((1 + 12 + 2.5) / 5))
    gap = found["valid", "shuffled", "nats_over_natural_clm", False]
    assert gap.value == pytest.approx(0.5) and gap.n == 1


def many(count=400, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        length = int(rng.integers(1, 40))
        rows.append(
            (f"p{i}", "valid", "A" * length, rng.normal(2.8, 0.3) + shift, "", "", 1.0, 0.4)
        )
    return rows


def test_intervals_are_of_proteins_drawn_again():
    """The error of a ratio of sums (Cochran 1977, eq. 2.39), of which the bootstrap is another way."""
    rows = many()
    length = np.array([len(row[2]) for row in rows])
    residual = length * np.array([row[3] for row in rows])
    value = residual.sum() / length.sum()
    residual = residual - value * length
    error = math.sqrt((residual**2).sum()) / length.sum()
    found = by(TASK.score(table(rows), Options(replicates=4000)))
    nats = found["valid", "all", "nats_clm", False]
    assert nats.value == pytest.approx(value) and nats.se == pytest.approx(error, rel=0.05)
    assert nats.ci95 == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.1 * error)
    perplexity = found["valid", "all", "perplexity_clm", False]
    assert perplexity.ci95 == pytest.approx(np.exp(nats.ci95))


def test_proteins_are_drawn_again_within_their_strata():
    """Two strata without any spread inside: together they have none, as one they have."""
    rows = [(f"p{i}", "valid", "A" * 20, 1.0 + 8 * (i % 2), "", "", 1.0, 0.4) for i in range(100)]
    one = table(rows)
    column = one.table.column_names.index("stratum")
    strata = pa.array([str(i % 2) for i in range(100)])
    two = Predictions(one.table.set_column(column, "stratum", strata), one.about)
    errors = [
        by(TASK.score(p, Options()))["valid", "all", "nats_clm", False].se for p in (one, two)
    ]
    assert errors[0] == pytest.approx(4 / math.sqrt(100), rel=0.1) and errors[1] == 0


def test_differences_are_paired():
    first, second = table(many(shift=-0.05)), table(many())
    (nats, perplexity) = [
        m for m in TASK.differences(first, second, Options(replicates=200)) if m.group == "all"
    ]
    # The same noise in both: what is left is the shift alone, and surely so.
    assert nats.value == pytest.approx(-0.05) and nats.se < 1e-12
    assert perplexity.value < 0 and perplexity.ci95[1] < 0 and perplexity.primary
    # Noise of its own in each protein is what is left otherwise.
    rng = np.random.default_rng(3)
    rows = [(*row[:3], row[3] + rng.normal(0.1, 0.2), *row[4:]) for row in many()]
    length = np.array([len(row[2]) for row in rows])
    apart = length * np.array([a[3] - b[3] for a, b in zip(rows, many())])
    value = apart.sum() / length.sum()
    error = math.sqrt(((apart - value * length) ** 2).sum()) / length.sum()
    nats = next(iter(TASK.differences(table(rows), second, Options(replicates=4000))))
    assert nats.value == pytest.approx(value) and nats.se == pytest.approx(error, rel=0.05)
    fewer = table(many()[:-1])
    with pytest.raises(PlmscaleError, match="other proteins"):
        list(TASK.differences(first, fewer, Options()))
    with pytest.raises(PlmscaleError, match="different quantities"):
        list(TASK.differences(first, table(many(), kind="mlm"), Options()))


def test_kinds_never_share_a_metric():
    names = {
        kind: {m.metric for m in TASK.score(table(many(5), kind), Options(replicates=10))}
        for kind in ("clm", "mlm")
    }
    assert names["clm"] & names["mlm"] == {"residues"}
    definitions = {m.definition for m in TASK.score(table(many(5), "mlm"), Options(replicates=10))}
    assert any("masked one at a time" in words for words in definitions)


def test_bins_of_a_model_of_another_corpus_are_marked():
    for trained_on, shown, words in (
        ("yes", True, f"one of corpus {example.KEY[:12]}"),
        ("no", True, "one of corpus"),
        ("unknown", False, "not known to be what the model was trained on"),
        ("other sources", False, "trained on another mix"),
    ):
        found = by(TASK.score(table(many(5), trained_on=trained_on), Options(replicates=10)))
        inside = found["valid", "0.3-0.5", "perplexity_clm", False]
        assert inside.primary is shown and words in inside.definition
        assert found["valid", "all", "perplexity_clm", False].primary


def test_predictions_that_do_not_fit_are_told():
    bad = table([("x", "valid", "MKT", (1.0, 2.0), "", "", 1.0, NAN)])
    with pytest.raises(PlmscaleError, match="2 nats for 3 residues"):
        list(TASK.score(bad, Options()))
    less = Predictions(bad.table.drop_columns("nats"), bad.about)
    with pytest.raises(PlmscaleError, match="lack the column nats"):
        list(TASK.score(less, Options()))
