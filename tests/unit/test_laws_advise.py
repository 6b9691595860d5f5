"""Advice from laws.json, and the commands around it."""

import json

import numpy as np
import pandas as pd
import pytest

from plmscale import cli
from plmscale.errors import PlmscaleError
from plmscale.laws.advise import advise
from plmscale.laws.fit import fit_laws
from plmscale.laws.hardware import find_gpu


def runs():
    """Losses of L = 2.6 + A / N^0.37 + B / D^0.49 with N_opt = 4e4 at 3e11 FLOPs, noise 0.002."""
    rng = np.random.default_rng(2)
    rows = []
    for budget in (1e11, 3e11, 1e12, 3e12):
        best = 4e4 * (budget / 3e11) ** (0.49 / 0.86)
        for factor in (0.25, 0.5, 1, 2, 4):
            n = int(best * factor)
            d = budget / 6 / n
            a, b = 0.08 / 0.37 * 4e4**0.37, 0.08 / 0.49 * (3e11 / 24e4) ** 0.49
            loss = 2.6 + a / n**0.37 + b / d**0.49 + rng.normal(0, 0.002)
            rows.append({"objective": "clm", "n_params": n, "tokens": d, "flops": budget,
                         "budget": budget, "loss": loss})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def laws():
    return fit_laws(runs(), n_boot=300)


def test_advice_inside_the_fitted_range(laws):
    answer = advise(laws, "clm", 3e11)
    assert answer["method"] == "isoflop_parabola" and "every size" in answer["why"]
    assert answer["n_params"]["value"] == pytest.approx(4e4, rel=0.3)
    low, high = answer["n_params"]["ci95"]
    assert low < answer["n_params"]["value"] < high
    assert low < 4e4 < high
    assert answer["loss"]["value"] == pytest.approx(2.98, abs=0.02)
    assert 6 * answer["n_params"]["value"] * answer["tokens"]["value"] == pytest.approx(
        3e11, rel=0.01
    )
    assert answer["extrapolation"]["decades"] == 0
    assert set(answer["methods"]) == set(laws["laws"]["clm"])


def test_advice_outside_says_how_far(laws):
    answer = advise(laws, "clm", 3e14, "parametric")
    assert answer["extrapolation"]["factor"] == pytest.approx(100)
    assert "2.0 decades) above the largest fitted budget" in answer["warnings"][0]
    assert "below the smallest" in advise(laws, "clm", 1e9)["warnings"][0]
    inside = advise(laws, "clm", 3e12, "parametric")["n_params"]["ci95"]
    outside = answer["n_params"]["ci95"]
    assert outside[1] / outside[0] > inside[1] / inside[0]


def test_advice_names_the_nearest_size_of_the_paper(laws):
    found = advise(laws, "clm", 1e19)
    assert found["architecture"]["name"].endswith("M")
    json.dumps(found, allow_nan=False)


def test_advice_falls_back_when_the_parabola_is_not_sound(laws):
    broken = json.loads(json.dumps(laws))
    broken["laws"]["clm"]["isoflop_parabola"]["ci95"]["a"] = [-1.0, 3.0]
    answer = advise(broken, "clm", 3e11)
    assert answer["method"] == "parametric"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("mlm", 1e12), "no law for objective 'mlm'; these laws hold: clm"),
        (("clm", -1.0), "must be a positive number"),
        (("clm", 1e12, "envelope"), "no method 'envelope'"),
    ],
)
def test_impossible_questions(laws, call, message):
    with pytest.raises(PlmscaleError, match=message):
        advise(laws, *call)


def test_a_table_without_a_law_gives_no_advice():
    empty = fit_laws(runs().query("budget == 1e11"), n_boot=0)
    with pytest.raises(PlmscaleError, match="needs at least two"):
        advise(empty, "clm", 1e12, "isoflop_parabola")


def test_gpus_are_found_under_the_names_people_use():
    assert find_gpu("h100 SXM").peak_flops == 989e12
    assert find_gpu("NVIDIA A100").flops(8, 1.0, 0.5) == 312e12 * 0.5 * 8 * 3600
    with pytest.raises(PlmscaleError, match="GPU 'TPU' is unknown; known: H100"):
        find_gpu("TPU")


def test_fit_and_advise_from_the_shell(tmp_path, capsys):
    table, out = tmp_path / "runs.csv", tmp_path / "laws.json"
    runs().to_csv(table, index=False)
    assert cli.main(["fit", str(table), "--out", str(out), "--boot", "100"]) == 0
    text = capsys.readouterr().out
    assert "isoflop_parabola" in text and "L = E + A / N^alpha" in text
    stored = json.loads(out.read_text())
    assert stored["schema"] == 1 and "runs.csv" in stored["provenance"]["inputs"]
    ask = ["advise", "--laws", str(out), "--objective", "clm"]
    assert cli.main([*ask, "--flops", "1e12"]) == 0
    assert "parameters N" in capsys.readouterr().out
    gpu = [*ask, "--gpu", "H100", "--gpus", "8", "--hours", "24", "--json"]
    assert cli.main(gpu) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["flops"] == pytest.approx(989e12 * 0.4 * 8 * 24 * 3600)
    assert answer["hardware"]["assumed"] is True
    assert cli.main(ask) == 2
    assert "needs --flops, or --gpu and --hours" in capsys.readouterr().err
