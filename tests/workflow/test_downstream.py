"""The downstream stage on the smoke study's runs: what it makes, goes on without, and makes again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import PROJECT
from test_sofar import contents

SMALL = Path(os.environ.get("PLMSCALE_SHARED") or PROJECT.parent / "shared") / "downstream"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SMALL.is_dir(), reason=f"the small downstream data are not at {SMALL}"),
]
STUDY = """\
overlays: smoke.yaml
study: smoke
downstream:
  source: small
  folder: {folder}
  tasks:
    perplexity: {{options: {{per_bin: 4, controls_per_bin: 2}}}}
    fitness: {{limit: 20}}
    fluorescence: {{methods: [probe], options: {{max_train: 60, max_valid: 30, max_test: 60}}}}
  runs: {{experiment: isoflop}}
  best: [objective]
  seeds: [{seeds}]
  models: {{absent: "hf:nobody/no-such-model"}}
"""


def write(checkout, seeds="1", **changes):
    text = STUDY.format(folder=changes.pop("folder", SMALL), seeds=seeds)
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    checkout.write_study("down", text)


def down(checkout, *words):
    return checkout.snakemake("downstream", *words, study="down")


def jobs(checkout):
    found = checkout.jobs("downstream", study="down")
    return {name: n for name, n in found.items() if name != "downstream"}


def so_far(checkout, name):
    done = subprocess.run(
        [sys.executable, "-m", "plmscale.cli", "report", f"studies/{name}.yaml"],
        cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0 and "warning" not in done.stderr, done.stdout + done.stderr
    return done.stdout


def stamps(results):
    return {
        path.relative_to(results): path.stat().st_mtime_ns
        for path in (results / "predictions").rglob("*.parquet")
    }


def test_the_best_run_is_evaluated_and_only_what_is_new_is_made(copy):
    results = copy.folder / "results/smoke/downstream"
    write(copy)
    down(copy)
    (name,) = (results / "best.txt").read_text().split()
    runs = pd.read_csv(copy.folder / "results/smoke/runs.csv").set_index("run_id")
    isoflop = runs[runs.index.str.match("clm-[237]k-[12]e9-")]
    assert len(isoflop) == 6 and name == isoflop["loss"].idxmin()

    metrics = pd.read_csv(results / "metrics.csv", keep_default_na=False)
    assert set(metrics["task"]) == {"perplexity", "fitness", "fluorescence"}
    own = metrics[metrics["model"] == name]
    assert set(own["twin"]) == {True, False}
    trained = own[~own["twin"]]
    assert {float(x) for x in trained["loss"]} == {isoflop["loss"].min()}
    # GFP and the two proteins of fitness were searched in what the run was trained on.
    assert (trained[trained["task"] != "perplexity"]["leakage"] != "").all()
    assert (own[own["twin"]]["leakage"] == "").all()
    gains = pd.read_csv(results / "gains.csv")
    assert set(gains["model"]) == {name} and set(gains["task"]) == set(metrics["task"])
    failures = pd.read_csv(results / "failures.csv")
    assert set(failures["model"]) == {"absent"} and len(failures) == 3
    assert failures["reason"].str.contains("not in this machine's cache").all()

    # The next start tries again what failed, and that alone.
    assert jobs(copy) == {"downstream_evaluate": 3, "downstream_tables": 1}
    write(copy, **{'  models: {absent: "hf:nobody/no-such-model"}\n': ""})
    assert jobs(copy) == {"downstream_tables": 1}
    down(copy)
    assert jobs(copy) == {}
    assert len(pd.read_csv(results / "failures.csv")) == 0
    before = stamps(results)

    # A metric's option makes tables, and no predictions.
    option = {"max_test: 60": "max_test: 60, bright_from: 2.0"}
    gone = {'  models: {absent: "hf:nobody/no-such-model"}\n': ""}
    write(copy, **gone, **option)
    down(copy)
    assert stamps(results) == before
    again = pd.read_csv(results / "metrics.csv")
    said = again[again["task"] == "fluorescence"]["definition"]
    assert said.str.contains("2").any()

    # A new seed adds its own.
    write(copy, seeds="1, 2", **gone, **option)
    down(copy)
    after = stamps(results)
    assert {path: after[path] for path in before} == before
    assert {path.name for path in set(after) - set(before)} == {"probe-s2.parquet"}

    # Another limit is another part of the data: of that task alone.
    write(copy, seeds="1, 2", **gone, **option, **{"limit: 20": "limit: 25"})
    assert jobs(copy)["downstream_evaluate"] == 1 and jobs(copy)["downstream_fetch"] == 1
    write(copy, seeds="1, 2", **gone, **option)

    # Other weights under the same name are noticed; the twin has none.
    weights = copy.folder / f"results/smoke/runs/{name}/model.safetensors"
    other = next(p for p in isoflop.index if p != name and p.split("-")[1] == name.split("-")[1])
    shutil.copyfile(copy.folder / f"results/smoke/runs/{other}/model.safetensors", weights)
    assert jobs(copy).keys() >= {"downstream_evaluate", "downstream_tables"}
    down(copy)
    last = stamps(results)
    changed = {path.parts[2] for path in last if last[path] != after.get(path)}
    assert changed == {name}


def test_the_report_so_far_shows_what_is_evaluated(copy):
    results = copy.folder / "results/smoke"
    tables = [f"downstream/{name}.csv" for name in ("metrics", "gains", "failures")]
    write(copy, **{'  models: {absent: "hf:nobody/no-such-model"}\n': ""})
    copy.snakemake("downstream_scaling", study="down")
    before = contents(results)
    assert "Downstream: 3 of 3 evaluations" in so_far(copy, "down")
    assert contents(results, "so-far") == before
    for name in (*tables, "downstream/scaling.json"):
        assert (results / "so-far" / name).read_bytes() == (results / name).read_bytes(), name
    assert '<section id="downstream">' in (results / "so-far/report.html").read_text()
    assert (results / "so-far/figures/downstream_loss.png").exists()

    # An evaluation that is gone is told, and the others are shown.
    (done,) = results.glob("downstream/done/fluorescence/clm-*.json")
    done.unlink()
    assert "Downstream: 2 of 3 evaluations" in so_far(copy, "down")
    lacks = pd.read_csv(results / "so-far/downstream/failures.csv")
    assert lacks[["task", "status"]].to_numpy().tolist() == [["fluorescence", "waiting"]]
    shown = pd.read_csv(results / "so-far/downstream/metrics.csv")
    own = shown[shown["origin"] == "run"]
    assert set(own["task"]) == {"perplexity", "fitness"}


def test_missing_data_stop_one_task_and_nothing_else(copy, tmp_path):
    results = copy.folder / "results/smoke/downstream"
    folder = tmp_path / "data"
    shutil.copytree(SMALL / "dms", folder / "dms")
    write(copy, folder=folder, **{'  models: {absent: "hf:nobody/no-such-model"}\n': ""})
    done = down(copy)
    assert done.returncode == 0
    failures = pd.read_csv(results / "failures.csv")
    assert set(failures["task"]) == {"fluorescence"}
    assert failures["reason"].str.contains("amino_acid_genotypes").all()
    assert set(pd.read_csv(results / "metrics.csv")["task"]) == {"perplexity", "fitness"}
    # The file is laid there: what failed is done, the rest stays.
    before = stamps(results)
    shutil.copytree(SMALL / "gfp", folder / "gfp")
    assert set(jobs(copy)) == {
        "downstream_fetch", "downstream_evaluate", "downstream_baselines", "downstream_leakage",
        "downstream_tables",
    }  # fmt: skip
    down(copy)
    after = stamps(results)
    assert {path: after[path] for path in before} == before
    assert "fluorescence" in {path.parts[1] for path in after}
    assert len(pd.read_csv(results / "failures.csv")) == 0
    note = json.loads((results / "failed/fetch/fluorescence.json").read_text())
    assert note == {"attempt": 2, "failed": []}
