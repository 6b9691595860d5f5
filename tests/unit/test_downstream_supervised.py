"""Fold, fluorescence and secondary structure on made-up data whose answer is known."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from supervised_example import (
    LETTERS,
    MADE,
    STATE_OF,
    data,
    predict,
    scores,
    small_run,
    structures,
    variants,
)

from plmscale.downstream import tasks
from plmscale.downstream.base import Example, Predictions
from plmscale.downstream.tasks import fold

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("name", MADE)
def test_a_task_has_what_the_rest_relies_on(name):
    task = tasks.task(name)
    assert (task.name, task.methods) == (name, ("probe", "lora"))
    assert task.kinds == ("clm", "mlm") and len(task.baselines) >= 2
    for source in ("small", "full"):
        sized = task.options().sized(source)
        assert None not in (sized.max_train, sized.steps, sized.batch, sized.every, sized.lora_rate)
    assert task.options(steps=7).sized("small").steps == 7
    assert set(task.later) <= set(task.options.model_fields)


def test_tasks_are_read_without_torch_or_scikit_learn():
    code = (
        "import sys\n"
        "from plmscale.downstream.tasks import fold, fluorescence, secondary_structure\n"
        "print([m for m in ('torch', 'sklearn', 'peft', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_linear_rule_of_composition_is_found(model):
    for method in ("probe", "baseline:composition", "baseline:dipeptides"):
        made = predict("fold", method, model if method == "probe" else None, **LETTERS)
        found = scores("fold", made)
        assert found["", "accuracy", "domains of classes in training"].value == 1
        assert found["", "accuracy", "all domains"].value == pytest.approx(27 / 30)
    assert (
        scores("fold", predict("fold", "baseline:majority"))["", "accuracy", "all domains"].value
        < 0.4
    )


def test_classes_that_were_never_seen_are_counted(model):
    made = predict("fold", "probe", model, **LETTERS)
    trained = made.table["trained"].to_pylist()
    assert (trained.count(False), len(trained)) == (3, 30)
    notes = made.about["notes"]
    assert "4 classes have a training domain" in notes
    assert "3 of 30 test domains are of 3 classes that no training domain has" in notes
    # Nothing that was not trained on is ever told.
    assert set(made.table["prediction"].to_pylist()) <= {0, 10, 20, 30}
    assert scores("fold", made)["", "accuracy", "domains of classes in training"].n == 27


def test_top_hit_finds_the_relative(tmp_path):
    rng = np.random.default_rng(7)
    letters = list("ACDEFGHIKLMNPQRSTVWY")
    families = ["".join(rng.choice(letters, 90)) for _ in range(5)]

    def mutated(sequence):
        kept = rng.random(len(sequence)) < 0.75
        return "".join(a if k else b for a, k, b in zip(sequence, kept, rng.choice(letters, 90)))

    examples = [
        Example(f"{split}{i}", mutated(s), split, i, "family" if split == "test" else "")
        for split in ("train", "valid", "test")
        for i, s in enumerate(families)
    ]
    examples.append(Example("lone", "".join(rng.choice(letters, 90)), "test", 3, "family"))
    made = predict("fold", "baseline:top-hit", source=data("fold", examples), evalue=1e-3)
    assert made.table["prediction"].to_pylist() == [0, 1, 2, 3, 4, fold.NONE]
    assert "top hit: 1 of 6 test domains have no hit" in made.about["notes"]


def test_additive_effects_are_found_by_one_hot_and_counted_by_mutations():
    source = variants(n_train=1000, length=20)
    found = scores("fluorescence", predict("fluorescence", "baseline:one-hot", source=source))
    assert found["", "spearman", "variants without stop"].value > 0.9
    made = predict("fluorescence", "baseline:mutations", source=source)
    assert made.table["prediction"].to_pylist() == [-n for n in made.table["mutations"].to_pylist()]
    assert scores("fluorescence", made)["", "spearman", "all variants"].value > 0.1


def linear():
    """Variants whose brightness is a linear map of composition, as is layer 0 pooled."""
    worth = dict(zip("ACDEFGHIKLMNPQRSTVWY", np.random.default_rng(0).normal(size=20)))
    whole = [e for e in variants(n_train=300).examples if not e.extra["stop"]]
    return data("fluorescence", [replace(e, target=sum(map(worth.get, e.sequence))) for e in whole])


def test_the_probe_sees_what_composition_tells(model):
    table = predict("fluorescence", "probe", model, source=linear(), **LETTERS).table
    assert np.allclose(table["target"].to_numpy(), table["prediction"].to_numpy(), atol=1e-2)


def test_states_of_letters_are_found_in_every_window(model):
    made = predict("secondary_structure", "probe", model, **LETTERS)
    sequences = {e.id: e.sequence for e in structures().examples}
    for name, told in zip(made.table["id"].to_pylist(), made.table["prediction"].to_pylist()):
        assert told == "".join(STATE_OF[letter] for letter in sequences[name])
    windows = dict(zip(made.table["id"].to_pylist(), made.table["windows"].to_pylist()))
    assert max(windows.values()) > 2
    assert all((windows[name] == 1) == (len(sequences[name]) <= 62) for name in windows)
    note = [n for n in made.about["notes"] if "several windows" in n]
    assert note == [
        f"test: {sum(n > 1 for n in windows.values())} of 8 proteins are read in several windows"
    ]
    # A shorter reading is as good where a residue is judged by its letter alone.
    short = predict("secondary_structure", "probe", model, max_length=20, **LETTERS)
    assert short.table["prediction"] == made.table["prediction"]
    assert max(short.table["windows"].to_pylist()) > max(windows.values())


def test_structure_baselines():
    made = predict("secondary_structure", "baseline:window", window=1)
    assert (
        scores("secondary_structure", made)["", "accuracy", "Q3, micro: over residues"].value == 1
    )
    made = predict("secondary_structure", "baseline:majority")
    states = "".join(
        s for e in structures().split("train") for s, r in zip(e.target, e.extra["resolved"]) if r
    )
    top = max("HEC", key=states.count)
    assert set("".join(made.table["prediction"].to_pylist())) == {top}


def test_a_window_sees_its_neighbours_and_not_farther():
    # The state follows from the letter three places on: a window of 7 sees it, one of 5 does not.
    def shifted(e):
        ahead = e.sequence[3:] + "AAA"
        return replace(e, target="".join(STATE_OF[c] for c in ahead), extra={})

    source = data("secondary_structure", map(shifted, structures(counts=(120, 20, 20)).examples))
    values = {}
    for width in (5, 7):
        made = predict("secondary_structure", "baseline:window", source=source, window=width)
        values[width] = scores("secondary_structure", made)[
            "", "accuracy", "Q3, micro: over residues"
        ].value
    # At the end of a protein the letter that decides is beyond it.
    assert values[7] > 0.96 and values[5] < 0.5


@pytest.mark.parametrize("name", MADE)
def test_lora_is_repeatable_and_kept_on_disk(name, model, tmp_path):
    options = {"steps": 6, "every": 2, "batch": 4, "replicates": 50, "lora_rate": 1e-2}
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    made = predict(name, "lora", model, seed=1, **options)
    again = predict(name, "lora", model, seed=1, **options)
    assert made.table == again.table
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    made.write(tmp_path / "p.parquet")
    read = Predictions.read(tmp_path / "p.parquet")
    assert scores(name, read) == scores(name, made)
    about = json.loads(json.dumps(read.about))
    assert (about["task"], about["method"], about["seed"]) == (name, "lora", 1)
    assert about["model"]["name"] == "mlm-test" and about["options"]["steps"] == 6
    assert set(about["versions"]) == {"numpy", "scikit-learn", "torch", "peft"}
    assert any(note.startswith("lora: best at step") for note in about["notes"])


def test_lora_starts_at_the_probe(model):
    # A rate too small to change anything.
    options = {"steps": 2, "every": 2, "lora_rate": 1e-12, "head_rate": 1e-12}
    for name in ("fold", "secondary_structure"):
        probe, lora = (predict(name, method, model, **options) for method in ("probe", "lora"))
        assert probe.table["prediction"] == lora.table["prediction"]
    probe, lora = (
        predict("fluorescence", method, model, source=linear(), **LETTERS, **options).table
        for method in ("probe", "lora")
    )
    known, told = (table["prediction"].to_numpy() for table in (probe, lora))
    assert np.allclose(told, known, atol=1e-2) and np.ptp(known) > 3


def test_lora_keeps_the_mean_brightness(model):
    # Its loss is blind to an offset, and steps as large as these make one of two standard deviations.
    options = {"steps": 60, "every": 60, "batch": 16, "lora_rate": 1e-2, "head_rate": 1e-2}
    made = predict("fluorescence", "lora", model, source=linear(), **options)
    target, told = (made.table[name].to_numpy() for name in ("target", "prediction"))
    assert "best at step 60 of 60" in made.about["notes"][-1]
    assert abs(told.mean() - target.mean()) < 0.2 * target.std()
