"""The released logs come out as counted."""

import hashlib

import pandas as pd
import pytest
from paper_logs_example import (
    RELEASED,
)

from plmscale.paper.audit import audit
from plmscale.tables import read_runs

# ---- the released logs ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    assert RELEASED.is_dir(), f"{RELEASED} is missing"
    out = tmp_path_factory.mktemp("released")
    audit(RELEASED, out)
    table = pd.read_csv(out / "audit.csv", keep_default_na=False)
    return out, table, read_runs(out / "runs.csv").set_index("run_id")


def one(table: pd.DataFrame, part: str) -> pd.Series:
    lines = table[table["file"].str.contains(part, regex=False)]
    assert len(lines) == 1, part
    return lines.iloc[0]


def test_every_released_file_has_one_line_and_a_reason(released):
    _, table, _ = released
    files = {p.relative_to(RELEASED).as_posix() for p in RELEASED.rglob("*.csv")}
    assert len(table) == 294
    assert set(table["file"]) == files
    assert (table["why"] != "").all() and (table["run_id"] != "").all()
    assert table["kind"].value_counts().to_dict() == {
        "isoflop": 209, "transfer": 37, "corpus_valid": 19, "mask_ratio": 16, "corpus_train": 13,
    }  # fmt: skip


def test_distinct_curves_are_those_that_hashes_of_their_values_count(released):
    _, table, _ = released
    for folder, objective, expected in (("gpt_valid", "clm", 117), ("mlm_valid", "mlm", 85)):
        hashes = {
            hashlib.sha256(pd.read_csv(p)["Value"].to_numpy().tobytes()).hexdigest()
            for p in (RELEASED / folder).rglob("*.csv")
        }
        assert len(hashes) == expected
        runs = table[(table["kind"] == "isoflop") & (table["objective"] == objective)]["run_id"]
        assert runs.nunique() == expected


def test_copies_under_another_size_are_out(released):
    _, table, runs = released
    for part, run_id in (("4B_flops/run-gpt_3.4b", "clm-3.4B-1e21"),
                         ("6M_flops/run-tensorboard_gpt_10M", "clm-13M-1e18")):  # fmt: skip
        line = one(table[table["kind"] == "isoflop"], "/" + part)
        assert (line.decision, line.mistakes) == ("excluded", "wrong_size;duplicate")
        assert line.run_id == run_id
    assert not ((runs["objective"] == "clm") & (runs["architecture"] == "4B")).any()


def test_wrong_flops_axes_are_corrected(released):
    _, table, runs = released
    lines = table[table["mistakes"].str.contains("wrong_flops_axis")]
    assert dict(zip(lines["run_id"], lines["why"].str.extract(r"multiplied by ([\d.]+)")[0])) == {
        "mlm-1.2B-1ep": "1.2086", "mlm-1.7B-1e21": "1.1667", "mlm-550M-3e19": "1.1667",
    }  # fmt: skip
    assert runs.loc["mlm-1.2B-1ep", "tokens"] == pytest.approx(2e11, rel=2e-3)
    assert runs.loc["mlm-1.7B-1e21", "flops_6nd"] == pytest.approx(1e21, rel=1e-3)
    assert runs.loc["mlm-550M-3e19", "flops_6nd"] == pytest.approx(3e19, rel=1e-3)


def test_labels_whose_slope_names_another_model(released):
    _, table, runs = released
    wide = runs.loc["clm-18x768x3072-1ep"]
    assert (wide.n_params, wide.n_layers, wide.d_model) == (170_105_856, 18, 768)
    lines = table[table["label"] == "25M"]
    lines = lines[lines["kind"] == "transfer"]
    assert len(lines) == 4 and set(lines["architecture"]) == {"34M"}


def test_first_rows_of_other_launches_are_dropped(released):
    out, table, _ = released
    lines = table[table["mistakes"].str.contains("foreign_first_row")]
    assert set(lines["run_id"]) == {"mlm-10B-1.33ep", "mlm-550M-3e20"}
    for run_id in lines["run_id"]:
        assert pd.read_csv(out / "curves" / f"{run_id}.csv")["step"][0] == 300


def test_stopped_runs_and_thinned_exports(released):
    _, table, runs = released
    assert set(runs.index[runs["status"] == "excluded"]) == {
        "clm-1.2B-1ep-stopped", "clm-18x768x3072-0.75ep-stopped",
        "mlm-106M-1e20-stopped", "mlm-85M-1ep-stopped", "clm-106M-1e18-flat",
    }  # fmt: skip
    thinned = table[table["mistakes"].str.contains("thinned")]
    # All but the stopped one are capped at 1,000 points.
    assert set(thinned["points"]) == {1000, 139}


def test_both_exports_of_a_run_agree_on_its_tokens(released):
    """FLOPs / 6 N of one file and the tokens of another, for each run that has both."""
    _, table, _ = released
    valid = table[(table["split"] == "valid") & ~table["mistakes"].str.contains("partial")]
    pairs = 0
    for _, lines in valid.groupby("run_id"):
        flops, tokens = (lines[lines["axis"] == axis]["tokens"] for axis in ("flops", "tokens"))
        if len(flops) and len(tokens):
            assert flops.iloc[0] == pytest.approx(tokens.iloc[0], rel=1e-9)
            pairs += 1
    assert pairs >= 15


def test_transfer_and_ablation_runs_are_complete(released):
    _, _, runs = released
    tuned = runs[runs["parent"] != ""]
    assert len(tuned) == 10
    assert set(tuned["parent"]) <= set(runs.index)
    assert (runs["status"] == "missing").sum() == 8
    assert runs.index.str.contains("mask").sum() == 16
    assert set(runs["corpus"]) == {"unimeta", "ur50", "ur50-epoch-shuffle", "ur50-full-shuffle"}
    # Weights that another objective prepared start below any run from scratch.
    done = runs[runs["status"] == "done"]
    assert (done["loss"].between(1.5, 2.9)).all() and (done["loss_sd"] < 0.02).all()


def test_most_points_of_the_paper_have_a_run(released):
    _, _, runs = released
    points = pd.read_csv(RELEASED.parent / "isoflop_points.csv")
    grid_runs = runs[(runs["status"] == "done") & (runs["parent"] == "")]
    keys = set(zip(grid_runs["objective"], grid_runs["architecture"], grid_runs["budget"]))
    covered = [
        (p.objective.lower(), p.model_size_label, p.budget_flops) in keys
        for p in points.itertuples()
    ]
    assert sum(covered) == 130
    on_grid = grid_runs[grid_runs["budget"].isin(points["budget_flops"].unique())]
    assert on_grid.groupby("objective").size().to_dict() == {"clm": 75, "mlm": 73}
    assert not on_grid.duplicated(["objective", "n_params", "budget"]).any()
    ratio = on_grid["flops_6nd"] / on_grid["budget"]
    assert ratio.between(0.90, 1.09).all()


def test_the_trusting_reader_has_what_the_audit_removed(released):
    out, table, _ = released
    trusted = read_runs(out / "runs_as_labelled.csv")
    assert len(trusted) == 209 == (table["kind"] == "isoflop").sum()
    assert ((trusted["objective"] == "clm") & (trusted["architecture"] == "4B")).sum() == 1
    wrong = trusted[trusted["source"].str.contains("mlm_1b_all1ep")].iloc[0]
    assert wrong["flops_6nd"] == pytest.approx(1.1985e21, rel=1e-4)


def test_runs_validated_on_the_same_batches_have_one_batch_size(released):
    """Streams are found without knowing the rows, so this checks every batch size settled."""
    _, table, _ = released
    sizes = table[table["valid_stream"] != ""].groupby("valid_stream")["batch_rows"].nunique()
    assert len(sizes) == 7 and (sizes == 1).all()
    largest = table[table["valid_stream"].astype(str).str.startswith("1")]
    assert largest["run_id"].nunique() == 162
