"""What every job pays before its work begins: imports of a parse, reading the study, the grid."""

import json
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
import yaml

from plmscale import files, grid, snakefile, study
from plmscale.errors import PlmscaleError

PROJECT = study.PROJECT
STUDIES = [PROJECT / "config.yaml", *sorted((PROJECT / "studies").glob("*.yaml"))]
# Types and YAML; what Snakemake imports for itself as well.
LIGHT = {"annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"}
LIGHT |= {"yaml", "_yaml"}


def imported(code):
    """Return the installed packages that `code` imports in a process of its own, but plmscale."""
    head = "import sys; before = set(sys.modules)"
    tail = "import json; print(json.dumps([*{*sys.modules} - before]))"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([head, code, tail])],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    packages = set(packages_distributions()) - {"plmscale"}
    modules = json.loads(done.stdout.splitlines()[-1])
    return packages & {name.partition(".")[0] for name in modules}


def test_the_rules_import_nothing_heavy():
    rules = sorted((PROJECT / "rules").glob("*.smk"))
    text = [line.strip() for path in rules for line in path.read_text().splitlines()]
    lines = [line for line in text if line.startswith("from plmscale")]
    assert len(lines) >= 2, "the rules import plmscale in another way: look again"
    lines.append(f"STUDY, _ = snakefile.load({{}}, ['studies/cheng2024.yaml'], {str(PROJECT)!r})")
    # The nodes of a profile, too: jobs on a cluster read the rules with one.
    site = "{'node_gpus': 8, 'node_gpu': 'H100 SXM', 'slurm_partition': 'cpu'}"
    lines.append("RUNS = {run.run_id: run for run in the_grid.expand(STUDY)}")
    lines.append(f"assert snakefile.cluster_jobs(STUDY, RUNS, RUNS, {site}, inside=True)")
    assert imported("\n".join(lines)) <= LIGHT


@pytest.mark.parametrize("command", ["runs", "status"])
def test_commands_that_look_at_a_grid_import_nothing_heavy(command):
    code = f"from plmscale.cli import main\nassert main([{command!r}, 'studies/smoke.yaml']) == 0"
    assert imported(code) <= LIGHT


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_read_the_same_without_libyaml(path):
    plain = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    # Types as well: 1 and 1.0 are equal, but not one recipe everywhere.
    assert repr(study.read_yaml(path)) == repr(plain)


@pytest.mark.parametrize(
    "text", ["study: a\n  grid: [1\n", "a: {b: 1, c\nd: 2\n", "a: &x 1\nb: *y\n", "\ta: 1\n"]
)
def test_a_mistake_in_a_study_is_told_as_yaml_tells_it(tmp_path, text):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(yaml.YAMLError) as expected:
        yaml.load(text, Loader=yaml.SafeLoader)
    with pytest.raises(PlmscaleError) as told:
        study.read_yaml(path)
    assert str(told.value) == f"{path}: not valid YAML: {' '.join(str(expected.value).split())}"


def test_a_key_that_stands_twice_is_told_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("study: a\ntraining:\n  lr: 1\n  eps: 2\n  lr: 3\n")
    with pytest.raises(PlmscaleError, match=r"key 'lr' stands twice.* line 5, column 3"):
        study.read_yaml(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1e11, "a": 100000000000}, '{"a":100000000000,"b":100000000000}'),
        ({"x": [True, 1.0, 0.5, None, "é"]}, '{"x":[true,1,0.5,null,"\\u00e9"]}'),
        ({1: (2.0, [3.5])}, '{"1":[2,[3.5]]}'),
        ({1e18: 1e19}, '{"1e+18":1e+19}'),
        ([-0.0, False, -4.0], "[0,false,-4]"),
    ],
)
def test_canonical_json_is_one_text_for_one_meaning(value, text):
    assert files.canonical_json(value) == text


def test_canonical_json_refuses_what_is_no_number():
    with pytest.raises(ValueError):
        files.canonical_json({"a": float("nan")})


@pytest.mark.parametrize("choice", [("", ""), ("transfer", ""), ("pilot", "objective:clm")])
def test_runs_are_chosen_alike_from_a_grid_that_is_expanded_already(choice):
    loaded = study.load(PROJECT / "studies/cheng2024.yaml")
    everything = grid.expand(loaded)
    chosen = grid.chosen_runs(loaded, *choice, everything)
    assert chosen == grid.chosen_runs(loaded, *choice)
    # No second expansion.
    assert all(any(run is other for other in everything) for run in chosen)


def test_a_run_that_is_not_there_ends_with_a_line_that_names_a_close_one():
    runs = snakefile.Runs(grid.expand(study.load(PROJECT / "studies/smoke.yaml")))
    name = next(iter(runs))
    assert runs[name].run_id == name and "other" not in runs
    with pytest.raises(SystemExit, match=f"no run '{name}x'; did you mean {name}"):
        runs[f"{name}x"]
    with pytest.raises(SystemExit, match="no run '%'; `plmscale runs` lists those it has"):
        runs["%"]
