"""The task as a whole: all methods on runs and on models of transformers, and bad input."""

import numpy as np
import pytest
import torch
from contacts_example import charged, data, protein
from hub_example import esm2, keep_below, progen2, protgpt2
from inference_fixtures import save_run, small_model
from pydantic import ValidationError

from plmscale.downstream import models
from plmscale.downstream.base import METHODS, Data, Example, Predictions
from plmscale.downstream.contacts import fitted, record, summary
from plmscale.downstream.contacts.baselines import BASELINES
from plmscale.downstream.contacts.pairs import n_pairs
from plmscale.downstream.store import Store
from plmscale.downstream.tasks import task
from plmscale.downstream.tasks.contacts import Options
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)
TASK = task("contacts")
RNG = np.random.default_rng(3)
SOME = [charged(RNG, int(n), f"p{k}") for k, n in enumerate(RNG.integers(30, 60, 26))]
DATA = data(SOME[:16], SOME[16:20], SOME[20:])
QUICK = Options(train_sizes=(3,), steps=6, batch=4, attention_proteins=4, replicates=20)


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    yield from keep_below(tmp_path, monkeypatch)


def run(folder, kind="mlm", **changes):
    return models.open(save_run(folder / "run", small_model(**changes), kind))


def scores(made):
    return {(r.id, r.train_size): r.scores for r in record.records(made)}


MADE = {
    "mlm run": run,
    "clm run": lambda folder: run(folder, "clm"),
    "ESM-2": lambda folder: models.open(esm2(folder / "model")),
    "ProGen2": lambda folder: models.open(progen2(folder / "model")[0]),
    "ProtGPT2": lambda folder: models.open(protgpt2(folder / "model")),
}


@pytest.mark.parametrize("name", list(MADE))
def test_every_method_runs_on_every_kind_of_model(tmp_path, name):
    model, store = MADE[name](tmp_path), Store(tmp_path / "store")
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    wanted = {"attention": {4}, "probe": {3, 16}, "lora": {3, 16}}
    assert set(TASK.methods) == set(wanted) <= set(METHODS)
    for method, sizes in wanted.items():
        if method == "attention" and not model.letterwise:
            with pytest.raises(PlmscaleError, match="use the method probe or lora"):
                TASK.predict(DATA, model, method, 1, QUICK, store)
            continue
        made = TASK.predict(DATA, model, method, 1, QUICK, store)
        made.write(tmp_path / "made.parquet")
        made = Predictions.read(tmp_path / "made.parquet")
        assert set(scores(made)) == {(p.id, size) for p in SOME[20:] for size in sizes}
        about = made.about
        assert (about["task"], about["method"], about["seed"]) == ("contacts", method, 1)
        assert about["model"]["digest"] == model.info.digest and about["options"]["steps"] == 6
        found = list(TASK.score(made, QUICK))
        assert all(0 <= m.value <= 1 and m.ci95[0] <= m.ci95[1] for m in found)
        curve = {summary.curve_size(m.group) for m in found} - {None}
        assert curve == (sizes if len(sizes) > 1 else set())
        assert len([m for m in found if m.primary]) == 3
    # The network is what it was: LoRA is taken off, nothing was trained.
    after = model.module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.requires_grad for p in model.module.parameters())


@pytest.mark.parametrize("method", ["attention", "probe", "lora"])
def test_the_seed_decides_all_and_draws_the_proteins(tmp_path, method):
    model, store = run(tmp_path), Store(tmp_path / "store")
    options = QUICK.model_copy(update={"attention_c": 1e4})
    first, again, other = (
        scores(TASK.predict(DATA, model, method, seed, options, store)) for seed in (0, 0, 1)
    )
    for key in first:
        assert np.array_equal(first[key], again[key])
    assert any(not np.array_equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("method", ["probe", "lora"])
def test_a_head_learns_which_residues_touch(tmp_path, method):
    """Opposite charges touch; even a random network's states say which residue stands where."""
    model = run(tmp_path)
    options = Options(
        train_sizes=(), steps=80, batch=4, every=20, probe_rate=1e-2, lora_rate=1e-2, replicates=2
    )
    made = TASK.predict(DATA, model, method, 0, options, Store(tmp_path / "store"))
    separation = TASK.predict(DATA, None, "baseline:separation", 0, options, None)
    reached, below = (
        next(m for m in TASK.score(p, options) if (m.metric, m.primary) == ("P@L/5", True)).value
        for p in (made, separation)
    )
    assert below < 0.3 and reached > 0.9


def test_points_of_the_curve_are_parts_of_one_order(tmp_path, monkeypatch):
    seen = []

    def keep(model, method, parts, *more):
        seen.append([p.id for p in parts.train])
        return [np.zeros(n_pairs(len(p))) for p in parts.test], "seen"

    monkeypatch.setattr(fitted, "scores", keep)
    options = QUICK.model_copy(update={"train_sizes": (2, 5, 16, 99)})
    for seed in (0, 1):
        made = TASK.predict(DATA, run(tmp_path), "probe", seed, options, None)
    assert [len(ids) for ids in seen] == [2, 5, 16] * 2
    assert seen[0] == seen[1][:2] and seen[1] == seen[2][:5]
    assert set(seen[2]) == set(seen[5]) and seen[2] != seen[5]
    assert {size for _, size in scores(made)} == {2, 5, 16}


def test_lora_starts_at_the_probe(tmp_path):
    """With adapters and head that cannot move, LoRA's scores are the probe's."""
    model, store = run(tmp_path), Store(tmp_path / "store")
    options = QUICK.model_copy(update={"lora_rate": 1e-30, "head_rate": 1e-30})
    probe, lora = (
        scores(TASK.predict(DATA, model, method, 0, options, store)) for method in ("probe", "lora")
    )
    for key in probe:
        assert np.allclose(probe[key], lora[key], atol=2e-3)
    moved = scores(TASK.predict(DATA, model, "lora", 0, QUICK, store))
    assert any(not np.allclose(probe[key], moved[key], atol=2e-3) for key in probe)


@pytest.mark.parametrize("method", ["attention", "probe", "lora"])
def test_16_bit_weights_give_nearly_the_same(tmp_path, method):
    save_run(tmp_path / "run", small_model(), "mlm")
    options = QUICK.model_copy(update={"attention_c": 1e4})
    full, half = (
        scores(TASK.predict(DATA, models.open(tmp_path / "run", dtype=dtype), method, 0, options))
        for dtype in ("fp32", "bf16")
    )
    for key in full:
        assert np.corrcoef(full[key], half[key])[0, 1] > 0.99


def test_defaults_follow_the_source():
    small, full = Options().sized("small"), Options().sized("full")
    assert small.steps < full.steps and small.batch < full.batch
    assert Options(steps=7, train_sizes=()).sized("full").steps == 7
    assert Options(steps=7, train_sizes=()).sized("full").train_sizes == ()
    for wrong in (
        {"train_sizes": (5, 3)},
        {"train_sizes": (0,)},
        {"step": 3},
        {"no_contacts": "x"},
    ):
        with pytest.raises(ValidationError):
            Options(**wrong)


def test_options_of_metrics_alone_change_no_prediction(tmp_path):
    model, store = run(tmp_path), Store(tmp_path / "store")
    other = QUICK.model_copy(update={"no_contacts": "skip", "replicates": 50})
    assert set(TASK.later) == {"no_contacts", "replicates"}
    for method in TASK.methods:
        made, again = (TASK.predict(DATA, model, method, 0, o, store) for o in (QUICK, other))
        assert made.table.equals(again.table)
        assert all(m.value == 0 for m in TASK.differences(made, again, QUICK))


def test_long_proteins_are_cropped_to_the_context_and_counted(tmp_path):
    limit = sorted(map(len, SOME[20:]))[2]
    model = models.open(save_run(tmp_path / "run", small_model(), "mlm", context=limit + 2))
    assert model.info.context == limit
    made = TASK.predict(DATA, model, "attention", 0, QUICK, None)
    long = sum(len(p) > limit for p in SOME[20:])
    assert 0 < long < 6
    assert any(f"test: {long} of 6 proteins are longer" in note for note in made.about["notes"])
    for p, row in zip(SOME[20:], record.records(made), strict=True):
        assert (len(row.resolved), row.uncropped) == (min(limit, len(p)), len(p))
        assert row.contacts.max(initial=0) < limit
    # The user's limit holds for models and baselines alike.
    options = QUICK.model_copy(update={"max_length": 33})
    for method, used in (("attention", model), ("baseline:random", None)):
        made = TASK.predict(DATA, used, method, 0, options, None)
        assert {len(row.resolved) for row in record.records(made)} <= {30, 31, 32, 33}


def test_proteins_without_structure_are_told_and_left_out(tmp_path):
    """So are chains too short for a pair; letters that are no standard residue are no hindrance."""
    dark = protein(40, unresolved=range(40), name="dark")
    short = protein(5, name="short")
    odd = protein(40, [(0, 20), (3, 33)], name="odd", letters="AXUZBOJ")
    mixed = data([*SOME[:4], dark, odd], [SOME[5], dark], [SOME[6], dark, short, odd])
    model, store = run(tmp_path), Store(tmp_path / "store")
    for method in (*TASK.methods, *(f"baseline:{name}" for name in BASELINES)):
        used = None if method.startswith("baseline") else model
        made = TASK.predict(mixed, used, method, 0, QUICK, store)
        assert "train: 1 proteins without two resolved residues 6 apart" in made.about["notes"]
        assert "test: 2 proteins without two resolved residues 6 apart" in made.about["notes"]
        assert {m.n for m in TASK.score(made, QUICK)} == {2}
        assert {id for id, _ in scores(made)} == {SOME[6].id, "dark", "short", "odd"}


def test_what_is_missing_is_told(tmp_path):
    model, dark = run(tmp_path), [protein(40, unresolved=range(40), name=f"d{k}") for k in range(3)]
    for method, match in (
        ("zero-shot", "no method 'zero-shot'; allowed: attention, probe, lora"),
        ("baseline:chance", "no method 'baseline:chance'"),
    ):
        with pytest.raises(PlmscaleError, match=match):
            TASK.predict(DATA, model, method, 0, QUICK, None)
    with pytest.raises(PlmscaleError, match="probe needs a model"):
        TASK.predict(DATA, None, "probe", 0, QUICK, None)
    with pytest.raises(PlmscaleError, match="no protein of the split train has"):
        TASK.predict(data(dark, SOME[:2], SOME[:2]), model, "probe", 0, QUICK, None)
    with pytest.raises(PlmscaleError, match="no protein of the split valid has"):
        TASK.predict(data(SOME[:2], dark, SOME[:2]), model, "probe", 0, QUICK, None)
    alone = Data("contacts", "small", (Example("x", "A" * 30, "train", []),), "0")
    with pytest.raises(PlmscaleError, match="no split 'valid'"):
        TASK.predict(alone, model, "probe", 0, QUICK, None)


def test_weights_that_are_no_numbers_are_told(tmp_path):
    broken = small_model()
    with torch.no_grad():
        broken.blocks[0].qkv.weight[3, 3] = float("nan")
    model = models.open(save_run(tmp_path / "run", broken, "mlm"))
    for method in TASK.methods:
        with pytest.raises(PlmscaleError, match=r"NaN|no number"):
            TASK.predict(DATA, model, method, 0, QUICK, Store(tmp_path / "store"))
    # After a failure too the network is without adapters.
    assert not [name for name, _ in model.module.named_parameters() if "lora" in name]
