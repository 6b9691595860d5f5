"""Advice from laws.json, and the commands around it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmscale import cli
from plmscale.architecture import PAPER_SIZES
from plmscale.errors import PlmscaleError
from plmscale.laws.advice import hardware
from plmscale.laws.advice.advise import advise
from plmscale.laws.advice.hardware import find_gpu, gpus, machine_and_flops
from plmscale.laws.advice.nearest import loss_penalty, nearest_architecture
from plmscale.laws.advice.text import count_text
from plmscale.laws.fit import fit_laws
from plmscale.laws.single import SINGLE_LAWS


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
    assert answer["method"] == "isoflop_joint" and "every run" in answer["why"]
    assert answer["n_params"]["value"] == pytest.approx(4e4, rel=0.3)
    low, high = answer["n_params"]["ci95"]
    assert low < answer["n_params"]["value"] < high
    assert low < 4e4 < high
    assert answer["loss"]["value"] == pytest.approx(2.98, abs=0.02)
    assert 6 * answer["n_params"]["value"] * answer["tokens"]["value"] == pytest.approx(
        3e11, rel=0.01
    )
    assert answer["extrapolation"]["decades"] == 0
    assert set(answer["methods"]) == set(laws["laws"]["clm"]) - set(SINGLE_LAWS)


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


def test_advice_falls_back_when_the_first_choice_is_not_sound(laws):
    broken = json.loads(json.dumps(laws))
    broken["laws"]["clm"]["isoflop_joint"]["ci95"]["a"] = [-1.0, 3.0]
    answer = advise(broken, "clm", 3e11)
    assert answer["method"] == "isoflop_parabola" and "every size" in answer["why"]
    for name in ("isoflop_parabola", "isoflop_spline"):
        broken["laws"]["clm"][name]["ci95"]["a"] = [None, 3.0]
    assert advise(broken, "clm", 3e11)["method"] == "parametric"


def test_perplexity_is_e_to_the_loss(laws):
    answer = advise(laws, "clm", 3e11)
    assert answer["perplexity"]["value"] == pytest.approx(np.exp(answer["loss"]["value"]))
    assert answer["perplexity"]["ci95"] == pytest.approx(np.exp(answer["loss"]["ci95"]))


def test_methods_far_apart_are_named(laws):
    moved = json.loads(json.dumps(laws))
    moved["laws"]["clm"]["isoflop_raw_linear"]["N_opt"]["A"] *= 5
    text = advise(moved, "clm", 3e11)["warnings"][-1]
    assert "methods disagree on N by a factor" in text and "to isoflop_raw_linear 2" in text


# The nearest architecture


def test_the_nearest_size_spends_the_same_flops():
    entry = {"E": 2.0, "A": 400.0, "B": 1200.0, "alpha": 0.34, "beta": 0.28}
    n = np.geomspace(1e7, 1e11, 200_001)
    loss = 2.0 + 400 / n**0.34 + 1200 / (1e21 / 6 / n) ** 0.28
    best = loss.argmin()
    near = nearest_architecture(entry, 1e21, n[best], 1e21 / 6 / n[best], loss[best])
    assert 6 * near["n_params"] * near["tokens"] == pytest.approx(1e21)
    own = 2.0 + 400 / near["n_params"] ** 0.34 + 1200 / near["tokens"] ** 0.28
    assert near["loss"] == pytest.approx(own, abs=1e-9) and near["loss_penalty"] > 0
    others = [abs(np.log(a.n_params / n[best])) for a in PAPER_SIZES.values()]
    assert abs(np.log(near["ratio"])) == min(others) and near["near"]


def test_a_joint_fit_charges_its_own_profile():
    shape = {"flops": 1e20, "k": 0.08, "g": 0.1, "s": 0.3, "s_per_ln_c": 0.02}
    for flops, ratio in ((1e20, 2.0), (1e22, 0.4), (1e20, 1.0)):
        c, u = np.log(flops / 1e20), np.log(ratio)
        k, s = 0.08 * np.exp(-0.1 * c), 0.3 + 0.02 * c
        want = k * (np.exp(s * u) - 1 - s * u) / s**2
        assert loss_penalty({"shape": shape}, flops, 1e9, 1e10, ratio * 1e9) == pytest.approx(want)
    flat = {"shape": {**shape, "s": 0.0, "s_per_ln_c": 0.0}}
    assert loss_penalty(flat, 1e20, 1e9, 1e10, 2e9) == pytest.approx(0.04 * np.log(2) ** 2)


def test_a_parabola_charges_its_curvature_and_raw_minima_nothing():
    points = [{"used": True, "curvature": c} for c in (0.06, 0.10)] + [
        {"used": False, "curvature": 9.0}, {"used": True, "curvature": None}
    ]  # fmt: skip
    found = loss_penalty({"points": points}, 1e20, 1e9, 1e10, 2e9)
    assert found == pytest.approx(0.04 * np.log(2) ** 2)
    assert loss_penalty({"points": points[2:]}, 1e20, 1e9, 1e10, 2e9) is None


def test_a_size_far_from_all_of_the_papers_is_told(laws, tmp_path, capsys):
    answer = advise(laws, "clm", 3e11)
    assert answer["architecture"]["name"] == "3M" and not answer["architecture"]["near"]
    (tmp_path / "laws.json").write_text(json.dumps(laws))
    ask = ["advise", "--laws", str(tmp_path / "laws.json"), "--objective", "clm"]
    assert cli.main([*ask, "--flops", "3e11"]) == 0
    assert "none of the paper's; the closest is 3M" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("mlm", 1e12), "no law for objective 'mlm'; these laws hold: clm"),
        (("clm", -1.0), "must be a positive number"),
        (("clm", 1e12, "envelope"), "no method 'envelope'"),
        (("clm", 1e12, "loss_c"), "loss_c is a law of one factor"),
    ],
)
def test_impossible_questions(laws, call, message):
    with pytest.raises(PlmscaleError, match=message):
        advise(laws, *call)


def test_a_table_without_a_law_gives_no_advice():
    empty = fit_laws(runs().query("budget == 1e11"), n_boot=0)
    with pytest.raises(PlmscaleError, match="needs at least two"):
        advise(empty, "clm", 1e12, "isoflop_parabola")


# Hardware


@pytest.mark.parametrize(
    ("name", "known", "tera"),
    [
        ("h100", "H100 SXM", 989), ("H100 SXM", "H100 SXM", 989), ("h100-pcie", "H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", "H100 SXM", 989), ("NVIDIA A100-SXM4-80GB", "A100", 312),
        ("Tesla V100-SXM2-32GB", "V100 SXM", 125), ("rtx4090", "RTX 4090", 165.2),
        ("NVIDIA RTX A6000", "A6000", 154.8), ("AMD Instinct MI300X", "MI300X", 1307),
        ("b200", "B200", 2250),
    ],
)  # fmt: skip
def test_gpus_are_found_under_the_names_people_use(name, known, tera):
    gpu = find_gpu(name)
    assert gpu.name == known and gpu.peak_flops == pytest.approx(tera * 1e12)


def test_every_gpu_has_a_rate_a_format_and_a_source():
    for gpu in gpus().values():
        assert 1e13 < gpu.peak_flops < 1e16 and gpu.format and gpu.source, gpu


def test_an_unknown_gpu_names_the_known_ones():
    for name in ("TPU", "", "H"):
        with pytest.raises(PlmscaleError, match=f"GPU '{name}' is unknown; known: H100"):
            find_gpu(name)


def test_the_package_carries_the_table():
    packaged = Path(hardware.__file__).with_name("hardware.tsv")
    assert packaged.read_bytes() == hardware.table_path().read_bytes()


def test_hours_and_flops_are_two_sides_of_one_machine():
    flops, machine = machine_and_flops(None, "A100", 8, 24.0, 0.5)
    assert flops == pytest.approx(312e12 * 0.5 * 8 * 24 * 3600) and machine["assumed"] is False
    _, back = machine_and_flops(flops, "A100", 8, None, 0.5)
    assert back["hours"] == pytest.approx(24.0)
    _, assumed = machine_and_flops(flops, "A100", 8, None, None)
    assert assumed["hours"] == pytest.approx(24.0 * 0.5 / 0.4) and assumed["assumed"] is True


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ((None, None, 1, None, None), "needs --flops, or --gpu and --hours"),
        ((1e20, None, 1, 3.0, None), "--hours needs --gpu"),
        ((1e20, None, 1, None, 0.4), "--mfu needs --gpu"),
        ((1e20, "A100", 1, 3.0, None), "--flops or --hours, not both"),
        ((None, "A100", 1, None, None), "needs --hours"),
        ((None, "A100", 1, -1.0, None), "needs --hours"),
        ((None, "A100", 0, 3.0, None), "--gpus 0 is not a positive number"),
        ((None, "A100", 1, 3.0, 40.0), "--mfu 40 is not a share between 0 and 1"),
    ],
)
def test_half_a_machine_is_no_answer(question, message):
    with pytest.raises(PlmscaleError, match=message):
        machine_and_flops(*question)


# Both stages


def with_transfer(laws):
    pairs = [{"share": 0.2, "total_worth": {"value": 1.5}}]
    direction = {"objective": "mlm", "pretraining": "clm", "n_pairs": 1, "pairs": pairs,
                 "share": None, "fitted_range": {"flops": [1e11, 3e12]}, "warnings": []}  # fmt: skip
    both = {"mlm": laws["laws"]["clm"], **laws["laws"]}
    return {**laws, "laws": both, "transfer": {"directions": {"clm-then-mlm": direction}}}


def test_both_stages_share_the_compute(laws, tmp_path, capsys):
    path = tmp_path / "laws.json"
    path.write_text(json.dumps(with_transfer(laws)))
    ask = ["advise", "--laws", str(path), "--objective", "clm-then-mlm"]
    assert cli.main([*ask, "--flops", "1e12", "--gpu", "A100", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    n, then = answer["n_params"]["value"], answer["tokens"]["value"]
    first = answer["pretrain"]["tokens"]["value"]
    assert 6 * n * (first + then) == pytest.approx(1e12, rel=0.01)
    assert first / (first + then) == pytest.approx(0.2)
    assert answer["loss"]["value"] < answer["scratch_loss"]["value"]
    assert cli.main([*ask, "--flops", "1e12", "--gpu", "A100"]) == 0
    text = capsys.readouterr().out
    assert "tokens for CLM" in text and "share of FLOPs for CLM  20.0%" in text
    assert cli.main([*ask, "--flops", "1e12", "--method", "parametric"]) == 2
    assert "--method is for one objective" in capsys.readouterr().err


def test_laws_without_transfer_runs_say_so(laws):
    with pytest.raises(PlmscaleError, match="no transfer runs for 'clm-then-mlm'"):
        advise(laws, "clm-then-mlm", 1e12)


# The shell


@pytest.mark.parametrize(
    ("value", "text"),
    [(950.0, "950"), (999.6, "1 k"), (4e4, "40 k"), (1.758e9, "1.76 B"), (9.995e8, "1 B"),
     (3.4e12, "3.4 T"), (5e15, "5e+15")],
)  # fmt: skip
def test_counts_are_said_in_short(value, text):
    assert count_text(value) == text


def test_a_file_that_is_no_laws_json_is_refused(tmp_path, capsys):
    for content, part in (
        ("[]", "not a laws.json"),
        ("{}", "not a laws.json"),
        ("{", "not valid JSON"),
    ):
        (tmp_path / "laws.json").write_text(content)
        ask = ["advise", "--laws", str(tmp_path / "laws.json"), "--objective", "clm"]
        assert cli.main([*ask, "--flops", "1e12"]) == 2
        assert part in capsys.readouterr().err


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
    text = capsys.readouterr().out
    assert "parameters N" in text and "this is inside" in text
    assert "C = 6 N D, N without embeddings" in text
    assert cli.main([*ask, "--flops", "1e15", "--gpu", "H100"]) == 0
    text = capsys.readouterr().out
    assert "decades outside" in text and "warning: 1e+15 FLOPs are a factor" in text
    assert "MFU" in text and "40% of 989 TFLOP/s (bf16, dense), assumed" in text
    gpu = [*ask, "--gpu", "H100", "--gpus", "8", "--hours", "24", "--json"]
    assert cli.main(gpu) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["flops"] == pytest.approx(989e12 * 0.4 * 8 * 24 * 3600)
    assert answer["hardware"]["assumed"] is True
    assert cli.main(ask) == 2
    assert "needs --flops, or --gpu and --hours" in capsys.readouterr().err
