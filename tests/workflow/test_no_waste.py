"""What must not train again, and what must: dry runs on a finished study."""

import os
import re
import shutil
import time

import pytest
import yaml

pytestmark = pytest.mark.slow


def edit(path, *pairs):
    text = path.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)


def test_nothing_to_do_after_a_run(finished):
    assert finished.jobs() == {}


def test_a_comment_and_another_order_train_nothing(copy):
    study = copy.folder / "studies/smoke.yaml"
    edit(
        study,
        ("sizes: [2k, 3k, 7k]", "sizes: [7k, 2k, 3k]"),
        ("1.0e+9, 2.0e+9", "2.0e+9, 1000000000"),
    )
    (copy.folder / "config.yaml").open("a").write("# a comment\n")
    assert copy.trained() == set()
    data = yaml.safe_load(study.read_text())
    data["grid"] = dict(reversed(data["grid"].items()))
    study.write_text(yaml.safe_dump(data, sort_keys=False))
    assert copy.trained() == set()


def test_touched_and_edited_code_trains_nothing(copy):
    for path in [*copy.folder.rglob("*.py"), *copy.folder.rglob("*.smk")]:
        os.utime(path)
    edit(
        copy.folder / "src/plmscale/training/trainer.py",
        ("from __future__", "# edited\nfrom __future__"),
    )
    edit(copy.folder / "rules/train.smk", ("mkdir -p", "mkdir   -p"))
    assert copy.trained() == set()
    assert "split" not in copy.jobs() and "clean_source" not in copy.jobs()


def test_other_profile_cores_and_execution_settings_train_nothing(copy):
    profile = copy.folder / "profiles/other"
    profile.mkdir()
    (profile / "profile.yaml").write_text("rerun-triggers: [mtime, params, input]\ncores: 1\n")
    assert copy.trained("--profile", "profiles/other") == set()
    assert copy.trained("--config", "execution={threads: 2, checkpoint_seconds: 5}") == set()


def test_a_fresh_clone_with_results_copied_in_trains_nothing(finished, tmp_path):
    """New dates everywhere, in any order, and none of Snakemake's records."""
    from conftest import Checkout

    fresh = Checkout(tmp_path / "clone")
    shutil.copytree(
        finished.folder / "results",
        fresh.folder / "results",
        symlinks=True,
        copy_function=shutil.copyfile,
    )
    now = time.time()
    for age, path in enumerate(sorted((fresh.folder / "results").rglob("*"), reverse=True)):
        os.utime(path, (now - age, now - age))
    jobs = fresh.jobs()
    assert not {"train", "split", "clean_source", "fetch_file", "manifest"} & set(jobs), jobs


def test_another_weight_or_licence_builds_no_corpus_again(copy):
    config = copy.folder / "config.yaml"
    edit(config, ("licence: CC BY 4.0", "licence: CC-BY-4.0"), ("weight: 0.15", "weight: 0.2"))
    assert set(copy.jobs("corpus")) <= {"study_corpus", "corpus"}


def test_another_rule_builds_a_corpus_of_its_own_and_brings_nothing_in_again(copy):
    edit(copy.folder / "config.yaml", ("min_length: 30", "min_length: 31"))
    jobs = copy.jobs("corpus")
    assert jobs["clean_source"] == 2 and jobs["split"] == 1 and "fetch_file" not in jobs
    edit(copy.folder / "config.yaml", ("min_length: 31", "min_length: 30"))
    assert copy.jobs("corpus") == {}


def test_a_new_budget_trains_only_its_own_runs(copy):
    edit(copy.folder / "studies/smoke.yaml", ("1.0e+9, 2.0e+9", "1.0e+9, 2.0e+9, 4.0e+9"))
    new = copy.trained()
    assert len(new) == 3 and all("-4e9-" in run_id for run_id in new)


def test_a_changed_recipe_trains_its_runs_anew_and_keeps_the_old(copy):
    edit(
        copy.folder / "studies/smoke.yaml",
        ("kind: repetition,", "kind: repetition, training: {weight_decay: 0.3},"),
    )
    new = copy.trained()
    assert len(new) == 2 and all("tok-" in run_id for run_id in new)


def test_a_selection_a_subset_or_one_file_trains_just_that(tmp_path):
    from conftest import Checkout

    empty = Checkout(tmp_path / "clone")
    assert {
        r.split("-")[0]
        for r in empty.trained("--config", "select=objective:clm,experiment:isoflop")
    } == {"clm"}
    assert len(empty.trained("--config", "select=objective:clm,experiment:isoflop")) == 6
    transfer = empty.trained("--config", "subset=transfer")
    assert len(transfer) == 3 and any("after-clm" in run_id for run_id in transfer)
    run_id = next(r for r in transfer if "after-clm" in r)
    # A child needs its parent, and nothing else.
    assert len(empty.trained(f"results/smoke/runs/{run_id}/metrics.json")) == 2
    wrong = empty.snakemake("-n", "--config", "select=objective:mmm", check=False)
    assert wrong.returncode != 0 and "did you mean" in wrong.text
    assert "Traceback" not in wrong.text


def test_parsing_imports_neither_torch_nor_deepspeed(finished):
    import subprocess
    import sys

    code = (
        "import sys; sys.argv=['x'];"
        "from plmscale import snakefile, study, grid, resources, configfile;"
        "grid.expand(study.load('studies/smoke.yaml'));"
        "print([m for m in ('torch','deepspeed','snakemake') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=finished.folder, env=finished.environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
    source = "".join(p.read_text() for p in (finished.folder / "src").rglob("*.py"))
    assert not re.search(r"^\s*(import|from) snakemake", source, re.M)


def test_a_budget_between_two_of_a_shared_trunk_trains_only_itself(copy):
    """Schedule wsd: the longer run goes on from the shorter one's kept state, whatever comes later."""
    text = (
        "overlays: smoke.yaml\nstudy: trunk\ntraining: {schedule: wsd, warmup_steps: 5}\n"
        "grid:\n  isoflop: {kind: isoflop, objectives: [clm], budgets: [1.0e+9, 2.0e+9], sizes: [3k]}\n"
    )
    copy.write_study("trunk", text)
    copy.snakemake("grid", study="trunk")
    logs = "".join(
        path.read_text() for path in (copy.folder / "results/trunk/logs/train").glob("*.log")
    )
    assert re.search(r"clm-3k-2e9-\S+: goes on from step \d+ of clm-3k-1e9-", logs)
    assert copy.jobs("grid", study="trunk") == {}
    copy.write_study("trunk", text.replace("1.0e+9, 2.0e+9", "1.0e+9, 1.5e+9, 2.0e+9"))
    new = copy.trained("grid", study="trunk")
    assert len(new) == 1 and "-1.5e9-" in new.pop()
