"""Which examples the supervised tasks use, how much of a protein, and what is wrong with some."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from supervised_example import (
    LETTERS,
    MADE,
    Blank,
    data,
    folds,
    predict,
    scores,
    small_run,
    structures,
    variants,
)

from plmscale.downstream import tasks
from plmscale.downstream.base import Example
from plmscale.downstream.residues import Reading
from plmscale.downstream.supervised import parts
from plmscale.downstream.tasks import fluorescence, fold, secondary_structure
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"))


def test_parts_are_nested_and_the_test_set_is_the_same_for_all_seeds():
    source, options = folds(), fold.Options(max_train=20, max_valid=5, max_test=4)
    ids = {seed: [[e.id for e in part] for part in vars(parts(source, options, seed)).values()]
           for seed in (0, 1)}  # fmt: skip
    assert [len(part) for part in ids[0]] == [20, 5, 12]
    assert ids[0][2] == ids[1][2] and ids[0][0] != ids[1][0]
    less = parts(source, options.model_copy(update={"max_train": 10}), 0)
    assert {e.id for e in less.train} < set(ids[0][0])
    whole = parts(source, fold.Options(max_train=0, max_valid=0, max_test=0), 0)
    assert [len(part) for part in vars(whole).values()] == [60, 12, 30]


def test_what_is_too_long_is_cut_at_its_end_and_counted(model):
    rng = np.random.default_rng(0)
    tail = "".join(rng.choice(list("ACDEFGHIKL"), 50))
    source = folds(length=60)
    longer = [
        replace(e, sequence=e.sequence + tail) if e.id == "test1" else e for e in source.examples
    ]
    made, other = (
        predict("fold", "probe", model, source=data("fold", examples))
        for examples in (source.examples, longer)
    )
    sizes = dict(zip(other.table["id"].to_pylist(), other.table["truncated"].to_pylist()))
    examples = {e.id: e for e in longer}
    assert all(lost == max(0, len(examples[i].sequence) - 62) for i, lost in sizes.items())
    assert sizes["test1"] > 40
    # What is cut off decides nothing.
    assert made.table["prediction"] == other.table["prediction"]
    assert any("of 30 proteins are longer than what is read" in n for n in other.about["notes"])
    short = predict("fold", "probe", model, source=source, max_length=10)
    assert (
        min(short.table["truncated"].to_pylist())
        == min(len(e.sequence) for e in source.split("test")) - 10
    )


def test_windows_count_each_residue_once(model):
    read = Reading(model, 20)
    proteins = [(e.sequence, np.arange(len(e.sequence))) for e in structures().split("train")]
    pieces = read.pieces(proteins)
    assert max(len(sequence) for sequence, _ in pieces) == 20
    counted = np.concatenate([labels[labels >= 0] for _, labels in pieces])
    assert len(counted) == sum(len(sequence) for sequence, _ in proteins)
    codes = [np.frombuffer(sequence.encode(), np.uint8)[:, None] for sequence, _ in pieces]
    for (sequence, _), joined in zip(proteins, read.joined(proteins, codes), strict=True):
        assert joined.astype(np.uint8).tobytes().decode() == sequence
    # As long as the model takes at once, where nothing shorter is asked for.
    assert max(len(sequence) for sequence, _ in Reading(model, 0).pieces(proteins)) == 62


def test_stops_are_left_out_or_unknown(model):
    example = Example("a", "MK*LV*", "test", 1.0)
    assert fluorescence._as_read(example, "drop").sequence == "MKLV"
    assert fluorescence._as_read(example, "unknown").sequence == "MKXLVX"
    made = [
        predict("fluorescence", "probe", model, stops=s, **LETTERS) for s in ("drop", "unknown")
    ]
    stop = np.array(made[0].table["stop"].to_pylist())
    drop, unknown = (m.table["prediction"].to_numpy() for m in made)
    assert stop.sum() == 6
    assert np.allclose(drop[~stop], unknown[~stop]) and (drop[stop] != unknown[stop]).all()


@pytest.mark.parametrize("name", MADE)
def test_methods_that_are_not_there(name, model):
    with pytest.raises(PlmscaleError, match=f"{name}: no method 'prob'; did you mean probe"):
        predict(name, "prob", model)
    with pytest.raises(PlmscaleError, match="no method 'baseline:none'"):
        predict(name, "baseline:none")
    with pytest.raises(PlmscaleError, match="probe needs a model"):
        predict(name, "probe")
    with pytest.raises(ValueError, match="max_trian"):
        tasks.task(name).options(max_trian=3)


@pytest.mark.parametrize("name", MADE)
def test_embeddings_that_are_no_numbers(name, model):
    task = tasks.task(name)
    with pytest.raises(PlmscaleError, match="NaN or infinity; has the run diverged"):
        task.predict(MADE[name](), model, "probe", 0, task.options(), Blank(np.nan))


def test_a_constant_predictor_is_told_and_has_no_correlation(model):
    task = tasks.task("fluorescence")
    made = task.predict(variants(), model, "probe", 0, task.options(), Blank(1.0))
    assert any("rank correlations are undefined (NaN)" in note for note in made.about["notes"])
    for metric in scores("fluorescence", made).values():
        assert math.isnan(metric.value) and metric.se is None and metric.ci95 is None
        assert metric.n > 0


def test_embeddings_that_are_all_alike_give_the_usual_answer(model):
    task = tasks.task("secondary_structure")
    made = task.predict(structures(), model, "probe", 0, task.options(), Blank(1.0))
    usual = predict("secondary_structure", "baseline:majority")
    assert made.table["prediction"] == usual.table["prediction"]


def test_variants_must_be_aligned_and_told_of():
    source = variants()
    cut = [replace(e, sequence=e.sequence[:-1]) if e.id == "test3" else e for e in source.examples]
    with pytest.raises(PlmscaleError, match="39 to 40 letters, expected one length"):
        predict("fluorescence", "baseline:one-hot", source=data("fluorescence", cut))
    bare = [replace(e, extra={"stop": False}) for e in source.examples]
    with pytest.raises(PlmscaleError, match="test0: the data do not tell its mutations"):
        predict("fluorescence", "baseline:mutations", source=data("fluorescence", bare))


def test_labels_must_fit_their_protein():
    for change, words in (
        ({"target": "HEC"}, "3 states and .* flags"),
        ({"extra": {"resolved": np.ones(3, bool)}}, "and 3 flags"),
        ({"target": None}, "states B"),
    ):
        examples = list(structures().examples)
        target = "B" + examples[0].target[1:] if change.get("target", "") is None else None
        examples[0] = replace(examples[0], **({"target": target} if target else change))
        with pytest.raises(PlmscaleError, match=words):
            predict(
                "secondary_structure", "baseline:majority",
                source=data("secondary_structure", examples),
            )  # fmt: skip
    with pytest.raises(ValueError, match="must be odd"):
        secondary_structure.Options(window=4)


def test_one_class_is_nothing_to_tell_apart(model):
    with pytest.raises(PlmscaleError, match="two classes at least"):
        predict("fold", "probe", model, source=folds(classes=1))


def test_a_missing_split_is_named():
    source = data("fold", folds().split("train"))
    with pytest.raises(PlmscaleError, match="no split 'valid'; there are train"):
        predict("fold", "baseline:majority", source=source)


def test_unusual_letters_are_no_error(model):
    for name in MADE:
        examples = [
            replace(e, sequence="XUBZOJ"[: 1 + i % 6] + e.sequence[1 + i % 6 :])
            for i, e in enumerate(MADE[name]().examples)
        ]
        for method in ("probe", f"baseline:{tasks.task(name).baselines[1]}"):
            own = model if method == "probe" else None
            made = predict(name, method, own, source=data(name, examples))
            assert made.table.num_rows == len([e for e in examples if e.split == "test"])
