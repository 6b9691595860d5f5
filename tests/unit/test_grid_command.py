"""`plmscale runs`: what it prints, writes and refuses."""

import csv
import json

import pytest

from plmscale import cli, grid, runs_cli, study

PAPER = str(study.PROJECT / "studies/cheng2024.yaml")


def printed(capsys, *arguments):
    assert cli.main(["runs", PAPER, *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def runs():
    return grid.expand(study.load(PAPER))


def test_columns_line_up_and_the_summary_counts_each_run_once(capsys, runs):
    lines = printed(capsys).splitlines()
    header = lines[0]
    end = header.index("n_params") + len("n_params")
    for line, run in zip(lines[1:], runs):
        assert line.startswith(run.run_id)
        assert line[:end].endswith(f" {run.recipe['n_params']:,}")
    assert lines[len(runs) + 1] == ""
    table = [line.split() for line in lines[len(runs) + 2 :] if line]
    assert table[0] == [
        "experiment",
        "kind",
        "objectives",
        "sizes",
        "runs",
        "flops_6nd",
        "new",
        "new_flops",
    ]
    assert sum(int(row[6]) for row in table[1:-1]) == len(runs)
    assert lines[-1].startswith(f"cheng2024: {len(runs)} runs, ")


def test_the_summary_adds_up_to_the_whole(runs):
    rows = runs_cli.summary(study.load(PAPER), runs)
    assert [row["experiment"] for row in rows] == list(study.load(PAPER).grid)
    total = sum(run.recipe["flops_6nd"] for run in runs)
    assert sum(row["new_flops"] for row in rows) == pytest.approx(total, rel=1e-12)
    for row in rows:
        own = [run for run in runs if row["experiment"] in run.experiments]
        assert row["runs"] == len(own) >= row["new"] >= 1
        assert row["flops_6nd"] == sum(run.recipe["flops_6nd"] for run in own)


def test_parents_that_a_selection_leaves_out_are_told(capsys, runs):
    out = printed(capsys, "--select", "run_id=mlm-after-clm-85M-3e19-p5.2e18*")
    assert "besides, 1 parents that are not among them" in out and "5.2e+18 FLOPs" in out
    assert "besides" not in printed(capsys, "--subset", "transfer")


def test_columns_and_order_as_asked(capsys, runs):
    out = printed(capsys, "--columns", "n_params,budget", "lr", "--sort", "budget", "n_params:desc",
                  "--json")  # fmt: skip
    rows = json.loads(out)
    assert len(rows) == len(runs) and all(set(r) == {"n_params", "budget", "lr"} for r in rows)
    given = [(r["budget"], -r["n_params"]) for r in rows if r["budget"]]
    assert given == sorted(given)
    # Runs that are given by tokens have no budget and come last.
    assert all(r["budget"] is None for r in rows[len(given) :]) and len(given) < len(rows)
    down = json.loads(printed(capsys, "--sort", "budget:desc", "--json"))
    assert down[0]["budget"] == max(r["budget"] or 0 for r in rows) and down[-1]["budget"] is None
    assert "steps" in down[0] and "flops" in down[0]


def test_a_csv_holds_every_run_in_full_precision(tmp_path, capsys, runs):
    path = tmp_path / "sub/runs.csv"
    out = printed(capsys, "--csv", str(path))
    assert f"written: {path}" in out and runs[0].run_id not in out
    with path.open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["run_id"] for row in rows] == [run.run_id for run in runs]
    for row, run in zip(rows, runs):
        assert float(row["flops"]) == run.recipe["flops"]
        assert row["budget"] == ("" if run.recipe["budget"] is None else str(run.recipe["budget"]))
    printed(capsys, "--csv", str(path), "--columns", "run_id", "lr", "--subset", "large")
    assert (
        path.read_text().splitlines()[0] == "run_id,lr" and len(path.read_text().splitlines()) == 3
    )


def test_recipes_are_whole(capsys, runs):
    recipes = json.loads(printed(capsys, "--json", "--recipes", "--subset", "large"))
    assert [r["architecture"]["name"] for r in recipes] == ["7B", "10B"]
    assert recipes[0] == json.loads(json.dumps(next(
        run.recipe for run in runs if run.run_id == recipes[0]["run_id"])))  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--columns", "n_param"],
            "--columns: runs have no column 'n_param'; did you mean n_params",
        ),
        (["--sort", "tokenz:desc"], "--sort: runs have no column 'tokenz'; did you mean tokens"),
        (["--sort", "all"], "--sort: runs have no column 'all'"),
        (["--subset", "isoflob"], "did you mean isoflop"),
        (["--select", "n_params:>1e12"], "it goes from 3.56134e+06 to 1.06855e+10"),
        (["--recipes"], "--recipes: whole recipes are printed with --json only"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, arguments, said):
    assert cli.main(["runs", PAPER, *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not captured.out


DOC = (study.PROJECT / "docs/grid.md").read_text()


def test_the_documentation_shows_the_grid_as_it_is(runs):
    loaded = study.load(PAPER)
    shown = runs_cli.summary_text(loaded, runs, runs)
    assert [line for line in shown.splitlines() if line and f"    {line}\n" not in DOC] == []
    for name in loaded.subsets:
        assert f"`{name}`" in DOC
        assert str(len(grid.chosen_runs(loaded, name))) in DOC


def test_the_example_of_the_documentation_is_a_study(tmp_path):
    start = DOC.index("    overlays: cheng2024.yaml")
    lines = DOC[start : DOC.index("\n\n", start)].splitlines()
    text = "\n".join(line[4:] for line in lines).replace("cheng2024.yaml", PAPER)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    loaded = study.load(path)
    asked = {name for run in grid.expand(loaded) for name in run.experiments}
    assert asked == {"profile", "few", "again", "transfer"}
    assert grid.chosen_runs(loaded, "cheap")
