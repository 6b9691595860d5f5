"""How a report tells what is missing: sentences, tables and captions from missing.json."""

from __future__ import annotations

import json

import pytest
from figures_example import write_study

from plmscale.report import lacking, missing
from plmscale.report.__main__ import main


def sizes(*names):
    return [{"name": name, "runs": [f"clm-{name}"]} for name in names]


def profile(budget, there=(), missing_=(), lost=(), objective="clm"):
    parts = {"there": sizes(*there), "lost": sizes(*lost), "missing": sizes(*missing_)}
    planned = sum(map(len, parts.values()))
    return {
        "kind": "profile",
        "objective": objective,
        "budget": budget,
        "planned": planned,
        **parts,
    }


def all_runs(there, missing_=0, never="", objective="clm"):
    parts = {
        "there": sizes(*map(str, range(there))), "lost": [],
        "missing": sizes(*(f"m{i}" for i in range(missing_))),
    }  # fmt: skip
    return {"kind": "runs", "objective": objective, "budget": None, "never": never,
            "planned": there + missing_, **parts}  # fmt: skip


def run(name, status, share=0.0, **more):
    return {"run_id": f"clm-{name}", "status": status, "share": share, "error": "", **more}


def law(*fitted, why=None):
    """Return an objective's methods: those `fitted` have a law, those in `why` a reason instead."""
    return {m: {"law": True, "why": ""} for m in fitted} | {
        m: {"law": False, "why": reason} for m, reason in (why or {}).items()
    }


def found(points=(), runs=(), laws=None, **more):
    told = [run("m0", "waiting"), *runs]
    counts = {}
    for row in told:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return {
        "schema": 1, "study": "mine", "part": "", "time": "2025-06-01T12:00:59Z", "slurm": "",
        "counts": counts, "share": 0.1234, "runs": told, "groups": [], "points": list(points),
        "laws": laws or {}, "other_runs": {}, "not_made": [], **more,
    }  # fmt: skip


# ---- how much there is ---------------------------------------------------------------------------


def test_a_lost_run_is_an_outcome_and_a_failed_one_is_missing():
    runs = [run("a", "done"), run("b", "diverged"), run("c", "failed", error="no space left")]
    told = missing.told(found(runs=runs))
    assert told.lead == "Not finished: 2 of 4 runs have ended, which is 12 % of the compute."
    assert told.sentences[0] == (
        "State of 2025-06-01 12:00 UTC: 1 finished, 1 waiting, 1 failed, 1 diverged."
    )
    assert "is an outcome: it is not missing" in told.sentences[-1]
    assert told.failed == [("clm-c", "no space left")]


def test_a_whole_study_has_no_opening_and_its_captions_no_note():
    whole = found(runs=[run("a", "done"), run("b", "parent_failed")])
    whole["counts"].pop("waiting")
    assert missing.told(whole) is None
    assert missing.stamp(whole) == missing.caption_note(whole, "isoflop") == ""
    assert missing.text(whole) == "mine: All 2 runs have ended.\n1 finished, 1 parent lost."
    # The report of the workflow itself has no missing.json.
    assert missing.caption_note({}, "isoflop") == ""


def test_a_slurm_that_does_not_answer_and_what_was_not_made_are_told():
    told = missing.told(
        found(slurm="squeue: no answer", not_made=[{"step": "holdout", "why": "odd"},
                                                   {"step": "figure_speed", "why": "a fault"}])
    )  # fmt: skip
    assert any("Slurm did not answer (squeue: no answer)" in text for text in told.sentences)
    assert told.not_yet[-2:] == [
        "The test on larger budgets could not be made: odd.",
        "The figure speed could not be made: a fault.",
    ]


def test_runs_by_experiment_with_the_total_first():
    groups = [
        {"experiment": e, "objective": "clm", "budget": "2e+18", "runs": 1, "states": {s: 1}}
        for e, s in (("one", "done"), ("two", "done"), ("two", "waiting"))
    ]
    table = missing.groups_table(found(runs=[run("a", "done")], groups=groups))
    assert [name for name, _ in table.columns][3:] == ["runs", "finished", "waiting"]
    assert table.rows[0] == ["all", "", "", "2", "1", "1"]
    assert table.rows[1] == ["one", "CLM", "2×10¹⁸", "1", "1", "–"]
    assert table.sentences, "two experiments ask for one run: the lines add up to more than all"


# ---- what the laws lack --------------------------------------------------------------------------


def test_points_say_which_sizes_are_missing_in_which_state():
    runs = [run("3k", "running", 0.456), run("7k", "waiting"), run("9k", "waiting"),
            run("5k", "diverged")]  # fmt: skip
    points = [
        profile(1e20, ("1k", "2k", "4k"), ("3k", "7k", "9k"), ("5k",)),
        profile(3e20, ("1k", "2k"), ("7k",)),
        profile(1e21, ("1k", "2k", "4k"), (), ("5k",)),
        profile(3e21, ("1k",), (), ("5k", "3k")),
        all_runs(3, 1),
    ]
    rows = lacking.points_table(found(points, runs)).rows
    assert rows[0] == [
        "CLM", "profile at 10²⁰ FLOPs", "3 of 7 sizes",
        "3k (46 %) running; 7k, 9k waiting; 5k diverged", "the best size may be among the missing",
    ]  # fmt: skip
    assert [row[-1] for row in rows[1:]] == [
        "no profile yet: it takes 3 sizes", "complete but for 1 lost",
        "no profile: fewer than 3 sizes are left", "incomplete",
    ]  # fmt: skip
    assert rows[-1][1:4] == ["L(N, D), envelope", "3 of 4 runs", "1 waiting"]


def test_comparisons_are_counted_by_objective():
    points = [
        {"kind": "transfer", "objective": "mlm", "budget": None, "planned": 1, "there": [],
         "lost": [], "missing": [], kind: [{"name": "after CLM", "runs": ["clm-m0"]}]}
        for kind in ("there", "missing", "missing")
    ]  # fmt: skip
    (row,) = lacking.points_table(found(points)).rows
    assert row == ["MLM", "transfer: comparisons", "1 of 3", "2 waiting", "incomplete"]
    assert lacking.not_yet(found(points)) == []
    assert lacking.not_yet(found(points[1:])) == [
        "MLM: nothing can be said on transfer yet; no comparison has all its runs."
    ]


@pytest.mark.parametrize(
    ("points", "laws", "said"),
    [
        (
            [profile(1e18, ("a", "b", "c")), profile(1e19, ("a",), ("m0", "m1")), all_runs(4, 2)],
            law(why={"isoflop_parabola": "only one budget"}),
            "cannot be fitted yet: they take 2 budgets with 3 finished sizes each, and there is 1. "
            "Nearest: 10¹⁹ FLOPs, where 2 more are needed (m0, m1 waiting).",
        ),
        (
            [profile(1e18, ("a", "b"), ("m0",)), all_runs(2, 1)],
            law(why={"isoflop_parabola": "no budget"}),
            "cannot be fitted, even when all runs are finished: they take 2 budgets with 3 finished "
            "sizes each, and there is 1 in the grid.",
        ),
        (
            [profile(1e18, ("a", "b", "c")), profile(1e19, ("a", "b"), ("m0",), ()),
             profile(1e20, ("a", "b"), (), ("x",)), all_runs(7, 1)],
            law("isoflop_parabola"),
            "CLM: the laws of compute rest on 1 of 3 profiles, up to 10¹⁸ of 10²⁰ FLOPs. "
            "Their exponents can still move.",
        ),
        (
            [profile(1e18, ("a", "b", "c")), profile(1e19, ("a", "b", "c"), ("m0",)),
             profile(1e20, (), ("m0", "m1", "m2")), all_runs(6, 4)],
            law("isoflop_parabola"),
            "rest on 2 of 3 profiles, up to 10¹⁹ of 10²⁰ FLOPs; 1 of these lacks sizes, where the "
            "best may lie.",
        ),
        (
            [profile(1e18, ("a", "b", "c")), profile(1e19, ("a", "b", "c")), all_runs(6, 1)],
            law(why={"isoflop_parabola": "no budget has a usable minimum"}),
            "there are 2 profiles, but no law: no budget has a usable minimum.",
        ),
        ([all_runs(0, 5)], {}, "none of the 5 runs of its laws is finished, so there is no law."),
        (
            [all_runs(1, 2, never="one size only (3k parameters)")],
            {},
            "CLM: no law, even when all runs are finished: one size only (3k parameters).",
        ),
    ],
    ids=["one-profile", "one-budget", "fitted", "cut", "no-minimum", "none", "never"],
)  # fmt: skip
def test_what_cannot_be_fitted_yet_and_why(points, laws, said):
    runs = [run(name, "waiting") for name in ("m1", "m2", "m3", "m4")] + [run("x", "diverged")]
    texts = lacking.not_yet(found(points, runs, {"clm": laws}))
    assert any(said in text for text in texts), texts
    assert all(text.startswith("CLM") for text in texts)


def test_other_laws_give_the_fit_s_own_reason_once():
    why = {"parametric": "4 runs are too few", "envelope": "4 runs are too few", "loss_n": "0 points",
           "loss_c": "0 points for this law", "loss_d": "1 point"}  # fmt: skip
    points = [profile(1e18, ("a", "b", "c")), profile(1e19, ("a", "b", "c")), all_runs(6, 1)]
    texts = lacking.not_yet(found(points, laws={"clm": law("isoflop_parabola", why=why)}))
    assert texts == [
        "CLM, parametric L(N, D) and envelope of curves: 4 runs are too few.",
        "CLM, L(N), L(C) and L(D): fewer than the 4 points that it takes.",
    ]


def test_a_law_of_another_corpus_than_the_grid_s_is_told_first():
    (text, *_) = lacking.not_yet(found([all_runs(0, 5)], other_runs={"clm": ["clm-odd"]}))
    assert "another corpus or mask ratio" in text and "clm-odd" in text


# ---- captions and the page -----------------------------------------------------------------------


def test_captions_say_of_which_part_of_the_points_a_figure_is():
    points = [profile(1e18, ("a", "b", "c")), profile(1e19, ("a",), ("m0", "m1")), all_runs(4, 2)]
    told = found(points, [run("a", "done")])
    note = missing.caption_note(told, "isoflop")
    assert note == "CLM 1 of 2 profiles complete (10¹⁹ FLOPs: 1 of 3 sizes)."
    assert missing.caption_note(told, "frontiers") == "CLM 1 of 2 profiles complete."
    assert missing.caption_note(told, "parametric") == "CLM 4 of 6 runs."
    assert missing.caption_note(told, "learning_curves") == "1 of 2 runs."
    assert missing.caption_note(told, "transfer") == "1 of 2 runs."
    assert missing.caption_note(told, "corpus_lengths") == ""


def test_a_terminal_gets_plain_letters():
    text = missing.text(found([profile(3e20, ("a",), ("m0", "m1")), all_runs(1, 2)],
                              [run("m1", "waiting")]))  # fmt: skip
    assert "profile at 3e20 FLOPs" in text
    assert text.isascii()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


def page(paths, out, *options):
    names = ["runs", "laws", "findings", "metrics"]
    given = [word for name in names for word in (f"--{name}", str(paths[name]))]
    assert main([*given, *options, "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def test_the_page_opens_with_what_is_missing(paths, tmp_path):
    points = [profile(1e19, ("a",), ("m0",)), all_runs(1, 1)]
    told = found(points, [run("a", "done"), run("b", "failed", error="<killed>")])
    (tmp_path / "missing.json").write_text(json.dumps(told))
    text = page(paths, tmp_path / "r.html", "--missing", str(tmp_path / "missing.json"))
    assert text.index("Not finished: 1 of 3 runs has ended") < text.index("How large should a")
    assert "profile at 10¹⁹ FLOPs" in text and "&lt;killed&gt;" in text
    assert '<a href="#missing">' in text


def test_a_report_says_which_runs_are_lost_and_which_part_of_the_study_it_is(paths, tmp_path):
    text = page(paths, tmp_path / "r.html", "--part", "subset isoflop: 8 of the study's 12 runs")
    assert "subset isoflop: 8 of the study&#39;s 12 runs" in text
    lost = text.index("1 diverged: ")
    assert "loss is nan at step 12" in text[lost : lost + 200]
    assert lost < text.index("How large should a")
    assert 'id="missing"' not in text


def test_lost_runs_by_what_befell_them():
    lost = [("a", "diverged", "nan"), ("b", "parent_failed", ""), ("c", "excluded", "")]
    text = missing.lost_sentence(lost, 9)
    assert text.startswith(
        "Of 9 runs 1 diverged and 1 could not start, because their parents did: a (nan), b."
    )
    assert missing.lost_sentence(lost[2:], 9) == ""
