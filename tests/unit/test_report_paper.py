"""Report of a study that reads released logs: verdicts, holdout, choices, worth, audit."""

import json

import pandas as pd
import pytest

from plmscale.report import holds, verdicts, worth


@pytest.fixture
def told():
    seen = {"value": 1e9, "ci95": [8e8, 1.2e9]}
    target = {
        "kind": "budget", "flops": 1e21, "budget": 1e21, "n_params": seen,
        "loss": {"value": 2.2, "ci95": None},
        "predictions": [
            {"method": "isoflop_joint", "n_params": {"value": 1.1e9}, "n_ratio": 1.1,
             "n_inside": True, "loss": {"value": 2.23}, "loss_error": 0.03, "loss_inside": False},
            {"method": "parametric", "n_params": {"value": 4e9}, "n_ratio": 4.0,
             "n_inside": False, "loss": {"value": 2.21}, "loss_error": 0.01, "loss_inside": None},
        ],
    }  # fmt: skip
    return {"up_to": 3e20, "note": "",
            "objectives": {"clm": {"share_of_flops": 0.17, "targets": [target]}}}  # fmt: skip


def test_holdout_says_how_far_off_and_how_many_intervals_hold(told):
    (text,) = holds.holdout_sentences(told)
    assert "1.10 (joint profile) to 4.00 (parametric L(N, D))" in text
    assert "1 of 2 stated intervals hold" in text
    assert "foretold 0.010 to 0.030 nats too high; 0 of 1 intervals hold" in text
    rows = holds.holdout_rows(told)
    assert [len(row) for row in rows] == [len(holds.HOLDOUT_COLUMNS)] * 2
    assert rows[1][2:6] == ["parametric L(N, D)", "4B", "4.00", "no"]


def test_nothing_held_out_is_said():
    assert holds.holdout_sentences({"note": "too few budgets"}) == [
        "Nothing was held out: too few budgets."
    ]


def test_the_largest_choice_is_named_beside_the_data():
    choices = {
        "method": {"sd": 0.08, "levels": {"envelope": 0.6, "parametric": 0.8}},
        "flops": {"sd": 0.01, "levels": {"flops": 0.64, "flops_6nd": 0.65}},
    }
    effect = {"choices": choices, "data_sd": 0.05, "n_fits": 9, "lowest": 0.5, "highest": 0.9}
    (text,) = holds.choice_sentences({"effects": {"mlm": effect}})
    assert "from 0.50 to 0.90" in text
    assert "The method matters most: it moves the exponent by 0.080" in text
    assert "more than the data leave open" in text
    rows = holds.choice_rows({"effects": {"mlm": effect}})
    assert [row[1] for row in rows] == ["the method", "what counts as compute",
                                        "the data (standard error)"]  # fmt: skip
    assert rows[0][4] == "0.800 (parametric L(N, D))"


def pair(**changes):
    base = {
        "objective": "mlm", "n_params": 3e9, "corpora": {"repeated": "small", "fresh": "big"},
        "R_star": {"value": 5.0, "ci95": [2.5, 20.0], "identified": True},
        "effective_tokens": {"share": {"value": 0.57}, "epochs": 6.5},
        "turn": {"verdict": "turns", "epoch": {"value": 7.3, "ci95": [6.3, 7.9]},
                 "rise": {"value": 0.126}},
    }  # fmt: skip
    return {**base, **changes}


def test_repetition_is_told_by_objective():
    unknown = pair(
        objective="clm", n_params=1.5e8, R_star={"identified": False}, turn={"verdict": ""}
    )
    mlm, turns, clm, steady = worth.repetition_sentences({"pairs": [pair(), unknown]})
    assert "worth 57% of as many fresh ones at 3B parameters (small, 6.5 epochs; R* 5.0" in mlm
    assert "MLM overfits: validation loss is least at epoch 7.3 (95 % 6.3 to 7.9)" in turns
    assert "not identified at 150M" in clm
    assert steady == "CLM: no run that repeats its tokens turns to a rising validation loss."


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([0.9, 1.2], "does not say whether that pays"),
        ([1.1, 1.3], "it pays."),
        ([0.2, 0.4], "it does not pay."),
    ],
)
def test_transfer_pays_only_where_the_interval_says_so(ends, said):
    direction = {
        "objective": "mlm", "pretraining": "clm", "n_pairs": 1, "pairs": [{"n_params": 1e8}],
        "mean_speed_up": {"value": 1.4, "ci95": [1.2, 1.6]},
        "mean_total_worth": {"value": sum(ends) / 2, "ci95": ends},
    }  # fmt: skip
    (text,) = worth.transfer_sentences({"directions": {"clm-then-mlm": direction}})
    assert text.startswith("MLM after CLM (one size, 100M): a run reaches")
    assert said in text


def test_audit_lists_what_was_not_kept_and_counts_the_rest():
    columns = ["file", "label", "taken_objective", "taken_corpus", "taken_split", "taken_budget",
               "objective", "architecture", "corpus", "split", "budget", "decision", "mistakes",
               "run_id", "why"]  # fmt: skip
    kept = ["a.csv", "6M", "clm", "unimeta", "valid", 1e18, "clm", "6M", "unimeta", "valid", 1e18,
            "kept", "", "clm-6M-1e18", "fine"]  # fmt: skip
    copy = ["b.csv", "4B", "clm", "unimeta", "valid", 1e21, "clm", "3.4B", "unimeta", "valid", None,
            "excluded", "wrong_size, duplicate", "clm-3.4B-1e21", "byte for byte a.csv"]  # fmt: skip
    audit = pd.DataFrame([kept, copy], columns=columns)
    first, second = verdicts.audit_sentences(audit)
    assert first == "2 files were read: 1 kept, 1 excluded. They hold 2 distinct runs."
    assert "wrong size (1)" in second and "duplicate (1)" in second
    (row,) = verdicts.audit_rows(audit)
    assert row[1:4] == ["clm, 4B, unimeta, valid, 1e+21", "clm, 3.4B, unimeta, valid", "excluded"]


def test_verdicts_are_counted_and_grouped():
    row = {"quantity": "a", "objective": "clm", "published": "0.578", "here": "0.5786",
           "interval": "–", "difference": "+0.1%", "why": "cut"}  # fmt: skip
    found = {
        "rows": [{**row, "group": "One", "verdict": "reproduced"},
                 {**row, "group": "Two", "verdict": "not reproduced"},
                 {**row, "group": "Two", "verdict": ""}],
        "notes": {"Two": "A remark."},
    }  # fmt: skip
    assert verdicts.verdict_sentence(found) == (
        "Of 2 comparisons with published numbers: 1 reproduced, 1 not reproduced."
    )
    groups = verdicts.verdict_groups(found)
    assert [(title, note, len(rows)) for title, note, rows in groups] == [
        ("One", "", 1), ("Two", "A remark.", 2),
    ]  # fmt: skip
    assert groups[0][2][0][0] == "CLM a"


def test_all_of_it_stands_in_the_page(told, tmp_path):
    from figures_example import write_study

    from plmscale.report.__main__ import main

    paths = write_study(tmp_path)
    (tmp_path / "holdout.json").write_text(json.dumps(told))
    row = {"group": "G", "quantity": "a", "objective": "clm", "published": "1", "here": "1.5",
           "interval": "–", "difference": "–", "verdict": "not reproduced", "why": "<b>because"}  # fmt: skip
    (tmp_path / "reproduction.json").write_text(json.dumps({"rows": [row]}))
    out = tmp_path / "report.html"
    words = ["--runs", str(paths["runs"]), "--laws", str(paths["laws"]), "--out", str(out),
             "--holdout", str(tmp_path / "holdout.json"),
             "--reproduction", str(tmp_path / "reproduction.json")]  # fmt: skip
    assert main(words) == 0
    page = out.read_text()
    assert "Does it hold?" in page
    assert "&lt;b&gt;because" in page
    assert "Beside the paper" not in page


def test_pairs_validated_on_other_batches_are_told():
    audit = pd.DataFrame({"run_id": ["a", "b", "c"], "valid_stream": [1, 2, 1]})
    laws = {"repetition": {"pairs": [{"runs": {"repeated": "a", "fresh": "b"}},
                                     {"runs": {"repeated": "a", "fresh": "c"}}]}}  # fmt: skip
    assert verdicts.stream_sentence(audit, laws).startswith("1 of 2 runs that repeat a source")
    assert verdicts.stream_sentence(audit[audit["run_id"] != "b"].assign(valid_stream=1),
                                    {"repetition": {"pairs": laws["repetition"]["pairs"][1:]}}) == ""  # fmt: skip
