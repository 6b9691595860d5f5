"""Repetition and transfer in words."""

import json

import numpy as np
import pandas as pd
import pytest

from plmscale.laws.findings import findings


def run(run_id, objective="mlm", tokens=1e6, loss=2.8, **more):
    return {"run_id": run_id, "objective": objective, "n_params": 1000, "tokens": tokens,
            "flops_6nd": 6e3 * tokens, "corpus": "mix", "parent": "", "epochs": 0.5, "loss": loss,
            "loss_sd": 0.002, "status": "done", "seed": 1} | more  # fmt: skip


def one(rows, kind, **readers):
    found = findings(pd.DataFrame(rows), **readers)
    json.dumps(found, allow_nan=False)
    assert len(found[kind]) == 1
    return found[kind][0]


def test_repetition_compares_equal_runs_on_different_corpora():
    item = one(
        [run("mix"), run("cur", corpus="curated", epochs=8.0, loss=2.85), run("far", tokens=9e6)],
        "repetition",
    )
    assert item["runs"] == ["cur", "mix"] and item["verdict"] == "higher"
    assert item["difference"] == pytest.approx(0.05)
    assert item["ci95"] == pytest.approx([0.05 - 1.96 * 0.002828, 0.05 + 1.96 * 0.002828], abs=1e-4)
    assert "after 8 epochs over curated is higher by 0.0500 nats a token" in item["text"]


def test_a_small_difference_is_not_resolved():
    item = one([run("mix"), run("cur", corpus="curated", epochs=8.0, loss=2.803)], "repetition")
    assert item["verdict"] == "not resolved" and "not resolved" in item["text"]


def test_the_overfitting_turn_is_seen_in_the_curve():
    curve = pd.DataFrame({"step": [1, 2, 3], "tokens": [1e5, 5e5, 1e6], "flops_6nd": 1.0,
                          "split": "valid", "loss": [2.9, 2.80, 2.85]})  # fmt: skip
    item = one(
        [run("mix"), run("cur", corpus="curated", epochs=8.0, loss=2.85)],
        "repetition",
        curves={"cur": curve}.get,
    )
    assert item["turn"]["rise_since"] == pytest.approx(0.05)
    assert "has risen by 0.0500 since" in item["text"]


def transfer_rows(loss=2.7):
    return [
        run("parent", objective="clm", tokens=2e5),
        run("child", tokens=8e5, parent="parent", loss=loss),
        run("scratch", tokens=1e6),
    ]


def test_transfer_counts_the_parents_compute():
    item = one(transfer_rows(), "transfer")
    assert item["runs"] == ["child", "scratch"] and item["verdict"] == "lower"
    assert item["pretraining_share"] == pytest.approx(0.2)
    assert "with 20% of them spent on CLM first is lower by 0.1000" in item["text"]


def test_pairing_by_row_resolves_what_unpaired_errors_do_not():
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 200, 300)
    base = tokens * rng.normal(2.8, 0.3, 300)

    def rows(shift, seed):
        noise = np.random.default_rng(seed).normal(0, 0.5, 300)
        return pd.DataFrame(
            {
                "row": range(300),
                "source": "a",
                "tokens": tokens,
                "nll": base + shift * tokens + noise,
            }
        )

    tables = {"child": rows(-0.003, 1), "scratch": rows(0.0, 2)}
    table = transfer_rows(loss=2.797)
    assert one(table, "transfer")["verdict"] == "not resolved"
    item = one(table, "transfer", validation=tables.get)
    assert item["verdict"] == "lower" and "paired by validation row" in item["basis"]
    assert item["difference"] == pytest.approx(-0.003, abs=0.0015)


def test_seed_noise_widens_the_interval():
    rows = [*transfer_rows(loss=2.79), run("scratch2", tokens=3000000.0, seed=1, loss=2.6)]
    rows += [run("scratch3", tokens=3e6, seed=2, loss=2.62)]
    item = one(rows, "transfer")
    assert item["verdict"] == "not resolved" and "seed noise from replicate" in item["basis"]


def test_a_transfer_without_a_partner_is_said():
    rows = [run("parent", objective="clm", tokens=2e5), run("child", tokens=8e5, parent="parent")]
    found = findings(pd.DataFrame(rows))
    assert found["transfer"] == [] and "no mlm run from scratch" in found["warnings"][0]
    lonely = findings(pd.DataFrame([run("child", parent="gone")]))
    assert "its parent gone is not among the finished runs" in lonely["warnings"][0]


def test_failed_runs_are_not_compared():
    rows = [run("mix"), run("cur", corpus="curated", status="diverged", loss=np.nan)]
    assert findings(pd.DataFrame(rows))["repetition"] == []
