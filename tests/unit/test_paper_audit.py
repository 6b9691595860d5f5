"""Each kind of mistake is planted in made-up logs and found; clean logs yield none."""

import shutil

import numpy as np
import pandas as pd
import pytest
from paper_logs_example import (
    AXES,
    CONTEXT,
    TRAIN,
    VALID,
    add_isoflop,
    clean_folder,
    curve,
    found,
    isoflop_path,
    steps_for,
    training_curve,
    write,
)

from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.paper.audit import audit
from plmscale.tables import RUNS_COLUMNS, read_runs

M47, M85 = PAPER_SIZES["47M"], PAPER_SIZES["85M"]


@pytest.fixture
def logs(tmp_path):
    return clean_folder(tmp_path / "logs")


# ---- a clean folder -------------------------------------------------------------------------


def test_a_clean_folder_yields_no_finding(logs):
    table, runs = found(logs)
    assert len(table) == 14
    assert set(table["decision"]) == {"kept"}
    assert set(table["mistakes"]) == {""}
    assert set(runs.index) == {
        "clm-13M-1e18", "clm-25M-1e18", "clm-25M-3e18", "clm-47M-3e18", "clm-47M-1ep",
        "clm-47M-ur50", "mlm-47M-3e18", "mlm-47M-3e18-from-clm-1e18", "mlm-47M-mask0.15",
        "mlm-47M-mask0.40", "clm-47M-1e18",
    }  # fmt: skip
    missing = runs.loc["clm-47M-1e18"]
    assert (missing.status, missing.n_params, missing.flops_6nd) == ("missing", M47.n_params, 1e18)
    assert runs.loc["mlm-47M-3e18-from-clm-1e18", "parent"] == "clm-47M-1e18"


def test_runs_table_and_curves_keep_the_contract(logs, tmp_path):
    _, runs = found(logs)
    assert [c for c in RUNS_COLUMNS if c != "run_id"] == list(runs.columns)
    run = runs.loc["clm-25M-3e18"]
    a = PAPER_SIZES["25M"]
    tokens = steps_for(a, 512, 3e18) * 512 * CONTEXT
    assert (run.tokens, run.flops_6nd) == (tokens, 6.0 * a.n_params * tokens)
    assert run.flops == pytest.approx(tokens * a.flops_per_token(CONTEXT), rel=1e-12)
    assert run.budget == 3e18
    curves = pd.read_csv(tmp_path / "out" / "curves" / "clm-47M-ur50.csv")
    assert list(curves.columns) == ["step", "tokens", "flops_6nd", "split", "loss"]
    assert set(curves["split"]) == {"valid", "train"}
    assert runs.loc["clm-47M-ur50", "corpus"] == "ur50"
    assert runs.loc["clm-47M-ur50", "epochs"] == pytest.approx(2e11 / 15.4e9, rel=1e-3)


def test_loss_averages_only_points_near_the_end(logs, tmp_path):
    for last, run_id in ((1, "clm-47M-1ep"), (5, "clm-47M-1ep"), (5, "clm-25M-1e18")):
        audit(logs, tmp_path / "out", last, jitter="keep")
        runs = read_runs(tmp_path / "out" / "runs.csv").set_index("run_id")
        points = pd.read_csv(tmp_path / "out" / "curves" / f"{run_id}.csv")
        points = points[points["split"] == "valid"]
        late = points[points["tokens"] >= 0.97 * points["tokens"].max()]["loss"]
        assert runs.loc[run_id, "loss"] == pytest.approx(late.tail(last).mean(), rel=1e-12)
    # The short run has fewer than five points in its last 3 %.
    assert len(late) < 5


def test_loss_sd_is_the_planted_jitter_over_the_root_of_the_points(logs, tmp_path):
    audit(logs, tmp_path / "out", jitter="keep")
    runs = read_runs(tmp_path / "out" / "runs.csv").set_index("run_id")
    expected = np.hypot(0.006, 0.001) / np.sqrt(5)
    assert runs.loc["clm-47M-1ep", "loss_sd"] == pytest.approx(expected, rel=0.2)


def test_validation_streams_share_their_jitter(logs):
    table, _ = found(logs)
    assert set(table.loc[table["split"] == "valid", "valid_stream"].astype(str)) <= {"1", ""}
    assert (table["valid_stream"].astype(str) == "1").sum() >= 10


# ---- planted mistakes -----------------------------------------------------------------------


def test_the_same_curve_under_two_sizes(logs):
    right = isoflop_path("clm", "25M", "25M_1024l_3e18flops")
    wrong = right.replace("25M_flops", "85M_flops")
    (logs / wrong).parent.mkdir()
    shutil.copy(logs / right, logs / wrong)
    table, runs = found(logs)
    assert table.loc[right, "decision"] == "kept"
    assert table.loc[wrong, "decision"] == "excluded"
    assert table.loc[wrong, "mistakes"] == "wrong_size;duplicate"
    assert "25,221,456" in table.loc[wrong, "why"]
    assert not runs.index.str.contains("85M").any()


def test_a_copy_on_its_own_under_the_wrong_size_is_relabelled(logs):
    right = logs / isoflop_path("clm", "25M", "25M_1024l_3e18flops")
    wrong = isoflop_path("clm", "85M", "85M_1024l_3e18flops")
    (logs / wrong).parent.mkdir()
    right.rename(logs / wrong)
    table, runs = found(logs)
    assert (table.loc[wrong, "decision"], table.loc[wrong, "mistakes"]) == (
        "corrected",
        "wrong_size",
    )
    assert runs.loc["clm-25M-3e18", "n_params"] == PAPER_SIZES["25M"].n_params


def test_values_on_another_axis_or_a_part_of_them_are_one_run(logs):
    whole = logs / isoflop_path("clm", "25M", "25M_1024l_3e18flops")
    a = PAPER_SIZES["25M"]
    tokens = curve(a, 512, steps_for(a, 512, 3e18), "tokens", seed=2)
    joined = write(logs, isoflop_path("clm", "25M", "25M_again", "tokens"), tokens)
    part = write(logs, isoflop_path("clm", "25M", "25M_part"), pd.read_csv(whole).head(60))
    thin = write(logs, isoflop_path("clm", "25M", "25M_thin"), pd.read_csv(whole).drop([3, 4, 40]))
    table, runs = found(logs)
    assert table.loc[joined, "decision"] == "kept"
    assert table.loc[part, "mistakes"] == "partial_copy"
    assert "partial_copy" in table.loc[thin, "mistakes"]
    assert set(table.loc[[joined, part, thin], "run_id"]) == {"clm-25M-3e18"}
    assert runs.index.str.contains("25M").sum() == 2


def test_a_rerun_is_no_duplicate(logs):
    a = PAPER_SIZES["25M"]
    again = curve(a, 512, steps_for(a, 512, 3e18), seed=77)
    path = write(logs, isoflop_path("clm", "25M", "25M_1024l_3e18flops_2"), again)
    table, runs = found(logs)
    assert table.loc[path, "decision"] == "kept"
    assert {"clm-25M-3e18", "clm-25M-3e18-2"} <= set(runs.index)


@pytest.mark.parametrize("axis_n", [1e8, PAPER_SIZES["65M"].n_params])
def test_a_flops_axis_with_a_wrong_n(logs, axis_n):
    steps = steps_for(M85, 512, 1e19)
    path = write(logs, isoflop_path("mlm", "85M", "85M_1024l_1e19flops"),
                 curve(M85, 512, steps, axis_n=axis_n))  # fmt: skip
    table, runs = found(logs)
    assert (table.loc[path, "decision"], table.loc[path, "mistakes"]) == (
        "corrected",
        "wrong_flops_axis",
    )
    assert f"{M85.n_params / axis_n:.4f}" in table.loc[path, "why"]
    run = runs.loc["mlm-85M-1e19"]
    assert run.tokens == steps * 512 * CONTEXT
    assert run.flops_6nd == pytest.approx(1e19, rel=1e-4)


def test_without_a_budget_the_slope_beats_the_label(logs):
    steps = round(0.25 * 200e9 / (512 * CONTEXT))
    path = write(logs, isoflop_path("clm", "85M", "85M_all0.25ep"),
                 curve(PAPER_SIZES["65M"], 512, steps))  # fmt: skip
    table, runs = found(logs)
    assert table.loc[path, "mistakes"] == "wrong_size"
    assert np.isnan(runs.loc["clm-65M-0.25ep", "budget"])


def test_a_shape_outside_the_table_is_solved_from_the_slope(logs):
    wide = Architecture("wide", 18, 768, 12, 3072)
    steps = round(0.25 * 200e9 / (512 * CONTEXT))
    path = write(logs, isoflop_path("clm", "127M", "127M_all0.25ep"), curve(wide, 512, steps))
    table, runs = found(logs)
    assert table.loc[path, "mistakes"] == "wrong_size"
    run = runs.loc["clm-18x768x3072-0.25ep"]
    assert (run.n_params, run.n_layers, run.d_model) == (wide.n_params, 18, 768)


def test_a_first_row_of_another_run(logs):
    path = logs / isoflop_path("clm", "47M", "47M_1024l_3e18flops")
    rows = pd.read_csv(path)
    foreign = rows.head(1).assign(Step=round(rows.Step[0] * 0.6), Value=9.0)
    pd.concat([foreign, rows]).to_csv(path, index=False)
    table, _ = found(logs)
    line = table.loc[str(path.relative_to(logs))]
    assert (line.decision, line.mistakes) == ("corrected", "foreign_first_row")
    assert "0.600" in line.why
    curves = pd.read_csv(logs.parent / "out" / "curves" / "clm-47M-3e18.csv")
    assert curves["step"][0] == 300
    assert curves["loss"][0] == rows["Value"][0]


def test_another_batch_size_is_told_by_the_exact_n(logs):
    path = add_isoflop(logs, "clm", "85M", "1e18", rows=256)
    table, runs = found(logs)
    assert table.loc[path, "mistakes"] == "other_batch"
    assert "256 rows" in table.loc[path, "why"]
    assert runs.loc["clm-85M-1e18", "tokens"] == steps_for(M85, 256, 1e18) * 256 * CONTEXT


def test_unknown_batch_of_steps_is_told_by_shared_jitter(logs):
    table, runs = found(logs)
    lines = table[table["kind"] == "mask_ratio"]
    assert set(lines["batch_rows"]) == {512}
    assert lines["why"].str.contains("whose validation jitter it shares").all()
    assert runs.loc["mlm-47M-mask0.15", "tokens"] == 20_123 * 512 * CONTEXT


def test_training_loss_named_validation(logs):
    steps = steps_for(M85, 512, 1e19)
    path = write(logs, isoflop_path("clm", "85M", "85M_1024l_1e19flops"),
                 training_curve(M85, 512, steps))  # fmt: skip
    table, runs = found(logs)
    assert table.loc[path, "decision"] == "excluded"
    assert table.loc[path, "mistakes"] == "training_loss"
    assert table.loc[path, "split"] == "train"
    run = runs.loc["clm-85M-1e19-training"]
    assert run.status == "excluded" and np.isnan(run.loss)
    assert run.n_params == M85.n_params


def test_training_loss_in_place_of_validation_joins_its_run(logs):
    steps = steps_for(M47, 512, 3e18)
    path = f"transfer_valid/mlm/scratch/run-mlm_47M_1024l_3e18flops{TRAIN}{AXES['flops']}.csv"
    write(logs, path, training_curve(M47, 512, steps))
    table, _ = found(logs)
    assert (table.loc[path, "decision"], table.loc[path, "mistakes"]) == (
        "corrected",
        "training_loss",
    )
    curves = pd.read_csv(logs.parent / "out" / "curves" / "mlm-47M-3e18.csv")
    assert (curves["split"] == "train").sum() == 300
    assert curves[curves["split"] == "train"]["tokens"].max() == steps * 512 * CONTEXT


def test_a_thinned_export(logs):
    steps = round(200e9 / (512 * CONTEXT))
    full = curve(M85, 512, steps)
    rng = np.random.default_rng(2)
    inner = np.sort(rng.choice(np.arange(1, len(full) - 1), 998, replace=False))
    thinned = full.iloc[[0, *inner, len(full) - 1]]
    path = write(logs, isoflop_path("clm", "85M", "85M_all1ep"), thinned)
    table, runs = found(logs)
    assert (table.loc[path, "decision"], table.loc[path, "mistakes"]) == ("kept", "thinned")
    assert f"{len(full) - 1000} of {len(full)} evaluations" in table.loc[path, "why"]
    assert runs.loc["clm-85M-1ep", "tokens"] == steps * 512 * CONTEXT


def test_a_run_that_stops_short(logs):
    steps = steps_for(M85, 512, 1e19)
    path = write(logs, isoflop_path("clm", "85M", "85M_1024l_1e19flops"),
                 curve(M85, 512, round(0.7 * steps)))  # fmt: skip
    table, runs = found(logs)
    assert (table.loc[path, "decision"], table.loc[path, "mistakes"]) == ("excluded", "stops_short")
    assert "70.0%" in table.loc[path, "why"]
    run = runs.loc["clm-85M-1e19-stopped"]
    assert run.status == "excluded" and np.isnan(run.budget)


def test_a_run_that_never_learned(logs):
    steps = steps_for(M85, 512, 1e19)
    flat = curve(M85, 512, steps)
    flat["Value"] = 2.88 + np.random.default_rng(4).normal(0, 0.003, len(flat))
    path = write(logs, isoflop_path("clm", "85M", "85M_1024l_1e19flops"), flat)
    table, runs = found(logs)
    decision = ("excluded", "never_learned")
    assert (table.loc[path, "decision"], table.loc[path, "mistakes"]) == decision
    assert runs.loc["clm-85M-1e19-flat", "status"] == "excluded"


def test_perplexities_are_found_by_their_size(logs):
    path = logs / isoflop_path("clm", "47M", "47M_1024l_3e18flops")
    rows = pd.read_csv(path)
    rows.assign(Value=np.exp(rows.Value)).to_csv(path, index=False)
    table, _ = found(logs)
    line = table.loc[str(path.relative_to(logs))]
    assert (line.decision, line.mistakes) == ("corrected", "perplexity")
    curves = pd.read_csv(logs.parent / "out" / "curves" / "clm-47M-3e18.csv")
    assert curves["loss"].to_numpy() == pytest.approx(rows["Value"].to_numpy(), rel=1e-9)


def test_a_tokens_axis_that_counts_samples(logs):
    path = logs / f"ur50_all1ep_valid_loss/ur50_clm_47M/run-gpt_47M_ur50{VALID}tokens.csv"
    rows = pd.read_csv(path)
    rows.assign(Step=rows.Step // CONTEXT).to_csv(path, index=False)
    table, runs = found(logs)
    line = table.loc[str(path.relative_to(logs))]
    assert (line.decision, line.mistakes) == ("corrected", "wrong_axis;samples_axis")
    assert runs.loc["clm-47M-ur50", "tokens"] == pytest.approx(2e11, rel=1e-5)


def test_a_curve_in_the_folder_of_another_corpus(logs):
    tail = f"run-gpt_47M_all1ep{VALID}tokens.csv"
    source = f"ur50_all1ep_valid_loss/all1ep_clm_47M/{tail}"
    wrong = f"ur50_all1ep_valid_loss/ur50_clm_47M/{tail}"
    shutil.copy(logs / source, logs / wrong)
    table, runs = found(logs)
    assert table.loc[wrong, "mistakes"] == "wrong_folder;duplicate"
    assert table.loc[source, "decision"] == "kept"
    assert runs.loc["clm-47M-1ep", "corpus"] == "unimeta"


def test_corpora_of_nameless_curves_go_by_the_folder_that_holds_one(logs):
    steps = round(2e11 / (512 * CONTEXT))
    top = "ur50_all1ep_valid_loss/ur50_mlm_47M"
    one, two = (curve(M47, 512, steps, "tokens", seed) for seed in (50, 51))
    tail = f"{VALID}tokens.csv"
    write(logs, f"{top}_epoch_shuffle/run-mlm_47M_overfit{tail}", one)
    stray = write(logs, f"{top}_epoch_shuffle/run-mlm_47M_overfit_2{tail}", two)
    write(logs, f"{top}_full_shuffle/run-mlm_47M_overfit_2{tail}", two)
    table, runs = found(logs)
    assert table.loc[stray, "mistakes"] == "wrong_folder;duplicate"
    assert {"mlm-47M-ur50-epoch-shuffle", "mlm-47M-ur50-full-shuffle"} <= set(runs.index)


def test_a_run_from_scratch_among_the_transferred(logs):
    steps = steps_for(M47, 512, 1e19)
    stray = write(logs, f"transfer_valid/mlm/ft/run-mlm_47M_1024l_1e19flops{VALID}{AXES['flops']}.csv",
                  curve(M47, 512, steps, seed=60))  # fmt: skip
    named = write(logs, f"transfer_valid/mlm/ft/run-mlm1e19_transfer_from_gpt3e18_47M{VALID}"
                  f"{AXES['flops']}.csv", curve(M47, 512, steps, seed=61).assign(
                      Value=lambda t: t.Value + 0.05))  # fmt: skip
    table, _ = found(logs)
    assert table.loc[stray, "mistakes"] == "wrong_folder"
    assert (table.loc[named, "decision"], table.loc[named, "mistakes"]) == (
        "excluded",
        "not_transferred",
    )


def test_a_name_whose_epochs_are_wrong(logs):
    steps = steps_for(M85, 512, 3e19)
    path = write(logs, isoflop_path("clm", "85M", "85M_1024l_3e19flops_all0.9ep"),
                 curve(M85, 512, steps))  # fmt: skip
    table, _ = found(logs)
    assert (table.loc[path, "decision"], table.loc[path, "mistakes"]) == ("kept", "wrong_epochs")


def test_a_run_near_a_budget_counts_unless_another_was_meant_for_it(logs):
    steps = round(0.1 * 200e9 / (512 * CONTEXT))
    write(logs, isoflop_path("clm", "85M", "85M_all0.1ep"), curve(M85, 512, steps))
    _, runs = found(logs)
    assert runs.loc["clm-85M-0.1ep", "budget"] == 1e19
    add_isoflop(logs, "clm", "85M", "1e19", seed=9)
    table, runs = found(logs)
    assert runs.loc["clm-85M-1e19", "budget"] == 1e19
    assert np.isnan(runs.loc["clm-85M-0.1ep", "budget"])
    assert table["budget_by"].str.contains("has its own run").sum() == 1
