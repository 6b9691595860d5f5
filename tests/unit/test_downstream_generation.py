"""Generation: one rule for all models, controls, side results, and models that are no good."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections import Counter

import generation_example as example
import hub_example as hub
import numpy as np
import pandas as pd
import pytest
import torch
from generation_example import END, letters
from inference_fixtures import save_run, small_model, write_fasta
from scipy.stats import chisquare

from plmscale.corpus import mmseqs
from plmscale.corpus.alphabet import STANDARD
from plmscale.downstream import models, registry, sides, tasks
from plmscale.downstream.base import Predictions
from plmscale.downstream.generation import searches
from plmscale.downstream.generation.sampling import Setting, generate
from plmscale.downstream.scoring import residue_nats
from plmscale.downstream.tasks.generation import TASK, Options
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, write_json
from plmscale.inference.sampling import Sampling, draw, probabilities, uniforms

torch.set_num_threads(1)
ONE = Setting(1.0, 1.0)
OPTIONS = Options(
    temperatures=(1.0, 0.5), top_ps=(0.9,), per_setting=10, reference=20, max_length=40,
    clusters_of=4, replicates=50,
)  # fmt: skip


def constant_progen(folder, logits):
    adapter = models.open(hub.progen2(folder)[0])
    with torch.no_grad():
        adapter.module.transformer.ln_f.weight.zero_()
        adapter.module.transformer.ln_f.bias.zero_()
        adapter.module.lm_head.bias.zero_()
        for name, value in logits.items():
            token = adapter.end[-1] if name == END else adapter.letters[name]
            adapter.module.lm_head.bias[token] = value
    return adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("generation")


@pytest.fixture(scope="module")
def corpus(folder):
    return example.corpus(folder / "corpus")


@pytest.fixture(scope="module")
def made(folder, corpus):
    """Predictions of a small random run and of its twin, with side results, by name."""
    model = example.run(folder / "run")
    data = TASK.data(corpus, OPTIONS)
    paths = {}
    for name, adapter in (("own", model), ("twin", model.twin(1))):
        paths[name] = folder / f"{name}.parquet"
        TASK.predict(data, adapter, "zero-shot", 3, OPTIONS).write(paths[name])
        TASK.side(paths[name], OPTIONS, corpus, (), folder / "cache")
    return paths


def rows_of(predictions):
    rows = predictions.table.to_pandas()
    return dict(iter(rows.groupby("group", sort=False)))


@pytest.mark.parametrize("kind", ["run", "progen2"])
def test_each_residue_is_what_rule_and_random_number_say(tmp_path, kind):
    """With a cache, in batches that shrink, against a forward pass over the whole protein."""
    if kind == "run":
        model = example.run(tmp_path / "m")
    else:
        model = models.open(hub.progen2(tmp_path / "m")[0])
    setting = Setting(0.8, 0.9)
    found = generate(model, setting, 7, 30, seed=4, batch=3)
    assert len(found) == 7 and len({p.sequence for p in found}) > 4
    how = Sampling(30, temperature=0.8, top_p=0.9)
    ids = sorted([model.end[-1], *model.letter_tokens().tolist()])
    for number, protein in enumerate(found):
        tokens = model.encode([protein.sequence or "A"]).tokens
        with torch.no_grad():
            logits = model.logits(model.encode([protein.sequence or "A"]))[0].double().numpy()
        uniform = uniforms(setting.seed(4), number, 31)
        steps = len(protein.sequence) + protein.ended
        for step in range(steps):
            line = logits[[len(model.begin) - 1 + step]][:, ids]
            chosen = draw(probabilities(line, np.ones(line.shape, bool), how), uniform[[step]])
            expected = tokens[0, len(model.begin) + step] if protein.sequence else model.end[-1]
            assert ids[int(chosen[0])] == int(expected)
        assert protein.ended or len(protein.sequence) == 30


def test_runs_and_other_models_are_sampled_alike(tmp_path):
    logits = letters() | {"A": 2.0, "K": 1.0, "W": -3.0, END: 1.5}
    pair = example.run(tmp_path / "run", logits), constant_progen(tmp_path / "hub", logits)
    for setting in (ONE, Setting(0.5, 1.0), Setting(1.0, 0.6), Setting(0.0, 1.0)):
        one, other = (generate(model, setting, 25, 40, seed=9, batch=8) for model in pair)
        assert one == other and len(one) == 25
    # Of the most probable letter alone.
    assert {p.sequence for p in one} == {"A" * 40} and not any(p.ended for p in one)
    # The batch changes nothing, nor how many there are.
    assert generate(pair[0], ONE, 10, 40, 9, 3) == generate(pair[1], ONE, 25, 40, 9, 25)[:10]
    assert generate(pair[0], ONE, 10, 40, 8, 3) != generate(pair[0], ONE, 10, 40, 9, 3)


def test_letters_come_as_often_as_the_model_says(tmp_path):
    logits = letters() | {"A": 2.0, "C": 1.0, "X": 9.0, END: -1e4}
    model = constant_progen(tmp_path / "hub", logits)
    for setting, scale in ((ONE, 1.0), (Setting(0.5, 1.0), 2.0)):
        found = Counter("".join(p.sequence for p in generate(model, setting, 75, 40, 1, 30)))
        weight = {c: math.exp(scale * logits[c]) for c in STANDARD}
        expected = [3000 * weight[c] / sum(weight.values()) for c in STANDARD]
        # X is most likely and is none of the 20.
        assert chisquare([found[c] for c in STANDARD], expected).pvalue > 1e-4
    # A holds 0.26 and C 0.1 of the probability: top-p 0.3 leaves these two.
    found = generate(model, Setting(1.0, 0.3), 20, 40, 1, 20)
    assert set("".join(p.sequence for p in found)) == {"A", "C"}


def test_tokens_of_several_letters(tmp_path):
    """ProtGPT2: line breaks are text, pieces that hold anything else than residues are not."""
    model = models.open(hub.protgpt2(tmp_path / "m"))
    found = generate(model, ONE, 12, 50, seed=2, batch=5)
    assert set("".join(p.sequence for p in found)) <= set(STANDARD)
    assert max(len(p.sequence) for p in found) <= 50 and any(p.sequence for p in found)
    assert found == generate(model, ONE, 12, 50, seed=2, batch=12)
    with torch.no_grad():
        model.module.transformer.ln_f.weight.zero_()
        model.module.transformer.ln_f.bias.zero_()
        model.module.transformer.ln_f.bias[0] = 1
        model.module.transformer.wte.weight[:, 0] = 0
        model.module.transformer.wte.weight[model.end[-1], 0] = 1e4
    assert {(p.sequence, p.ended) for p in generate(model, ONE, 3, 50, 2, 5)} == {("", True)}
    with torch.no_grad():
        model.module.transformer.wte.weight[model.end[-1], 0] = -1e4
    never = generate(model, ONE, 3, 50, 2, 5)
    assert {(len(p.sequence), p.ended) for p in never} == {(50, False)}


def test_natural_proteins_and_controls(corpus):
    data = TASK.data(corpus, OPTIONS, seed=1)
    sets = {name: [e for e in data.examples if e.group == name]
            for name in ("natural", "shuffled", "unigram", "reference")}  # fmt: skip
    assert {name: len(part) for name, part in sets.items()} == {
        "natural": 10, "shuffled": 10, "unigram": 10, "reference": 20,
    }  # fmt: skip
    ids = [e.id for e in sets["natural"] + sets["reference"]]
    assert len(set(ids)) == 30 and all(name.startswith("one:valid:") for name in ids)
    for natural, shuffled, unigram in zip(sets["natural"], sets["shuffled"], sets["unigram"]):
        assert shuffled.extra["natural"] == unigram.extra["natural"] == natural.id
        assert Counter(shuffled.sequence) == Counter(natural.sequence)
        assert shuffled.sequence != natural.sequence
        assert len(unigram.sequence) == len(natural.sequence)
    again, other = (TASK.data(corpus, OPTIONS, seed=s) for s in (1, 2))
    assert again == data and other.examples[0].id != data.examples[0].id
    few = TASK.data(corpus, OPTIONS, limit=3, seed=1)
    assert Counter(e.group for e in few.examples)["natural"] == 3
    # Half are the reference where there are not enough, and that is told.
    many = TASK.data(corpus, OPTIONS.model_copy(update={"per_setting": 30}))
    assert Counter(e.group for e in many.examples)["reference"] == 20
    assert many.notes == ("only 20 natural proteins in each control",)


def test_predictions_have_equal_numbers_and_the_likelihood_of_each_protein(made, folder, corpus):
    predictions = Predictions.read(made["own"])
    rows = rows_of(predictions)
    assert {name: len(part) for name, part in rows.items()} == {
        "T=1 top-p=0.9": 10, "T=0.5 top-p=0.9": 10, "natural": 10, "shuffled": 10, "unigram": 10,
        "reference": 20,
    }  # fmt: skip
    model = models.open(folder / "run")
    some = predictions.table.to_pandas().query("split != 'reference' and sequence != ''")
    for sequence, mean in zip(some["sequence"], some["prediction"]):
        assert mean == pytest.approx(float(residue_nats(model, [sequence])[0].mean()), abs=1e-4)
    assert some["sequence"].str.len().max() == 40
    data = TASK.data(corpus, OPTIONS)
    whole = [e for e in data.examples if e.group == "natural"]
    assert rows["natural"]["sequence"].tolist() == [e.sequence[:40] for e in whole]
    assert rows["natural"]["terminated"].tolist() == [len(e.sequence) <= 40 for e in whole]
    assert 0 < rows["natural"]["terminated"].sum() < 10
    again = TASK.predict(data, model, "zero-shot", 3, OPTIONS)
    assert again.table == predictions.table
    # A setting's proteins do not depend on the others.
    alone = OPTIONS.model_copy(update={"temperatures": (0.5,)})
    fewer = TASK.predict(data, model, "zero-shot", 3, alone).table.to_pandas()
    assert fewer["sequence"][:10].tolist() == rows["T=0.5 top-p=0.9"]["sequence"].tolist()


def by(metrics):
    return {(m.group, m.metric): m for m in metrics}


def test_metrics_are_what_the_rows_say(made):
    predictions = Predictions.read(made["own"])
    metrics = list(TASK.score(predictions, OPTIONS))
    found = by(metrics)
    rows = rows_of(predictions)
    groups = [name for name in rows if name != "reference"]
    side, _ = sides.read(made["own"], searches.NAME)
    for group in groups:
        part = rows[group].merge(side, on="id")
        sequences = part["sequence"]
        assert found[group, "length"].value == pytest.approx(sequences.str.len().mean())
        assert found[group, "unterminated"].value == pytest.approx(1 - part["terminated"].mean())
        copied = part["copied"].eq(True) | (part["train_identity"] >= 0.9)
        assert found[group, "copied"].value == pytest.approx(copied.mean())
        nats = (part["prediction"] * sequences.str.len()).sum() / sequences.str.len().sum()
        assert found[group, "nats_clm"].value == pytest.approx(nats)
        assert found[group, "ks_length"].n == 10
    # The relatives of training proteins are found among the natural ones, and nowhere else.
    natural = rows["natural"].merge(side, on="id")["train_identity"]
    assert (natural >= 0.9).any() and natural.between(0.6, 0.89).any()
    assert 0 < found["natural", "copied"].value < natural.notna().mean()
    assert found["shuffled", "nearest_identity"].value == 0
    # None of them is its own nearest.
    assert found["natural", "nearest_held_out"].value < 0.2
    assert not found["natural", "ks_length"].primary and found[groups[0], "ks_length"].primary
    absent = {m.metric for m in metrics if m.definition.startswith("not run")}
    assert absent == {"plddt", "plddt_70", "tm_to_pdb", "confident_and_novel"}
    assert all(math.isnan(m.value) and m.n == 0 for m in metrics if m.metric in absent)
    assert len(found) == len(metrics)
    entry = {m.name: m for m in registry.load("generation").metrics}
    assert {m.metric for m in metrics} == set(entry)
    for m in metrics:
        assert m.higher_is_better == entry[m.metric].higher_is_better
        assert not m.primary or entry[m.metric].primary


def test_trained_minus_twin(made):
    first, second = (Predictions.read(made[name]) for name in ("own", "twin"))
    own, twin = (by(TASK.score(p, OPTIONS)) for p in (first, second))
    found = list(TASK.differences(first, second, OPTIONS))
    assert {m.split for m in found} == {"generated"}
    for metric in found:
        key = metric.group, metric.metric
        expected = own[key].value - twin[key].value
        assert metric.value == pytest.approx(expected, nan_ok=True)
    assert {"ks_length", "js_residues", "copied", "nearest_held_out"} <= {m.metric for m in found}
    # More clusters or longer proteins are no merit.
    assert not {"clusters_50", "length", "nats_clm", "nearest_identity"} & {m.metric for m in found}
    empty = next(m for m in found if m.metric == "unterminated")
    assert empty.ci95[0] <= empty.value <= empty.ci95[1] and empty.ci95[0] < empty.ci95[1]
    same = [m.value for m in TASK.differences(first, first, OPTIONS)]
    assert len(same) == len(found) and set(same) == {0.0}
    other = Predictions(
        first.table.filter(first.table["group"].to_numpy() != "natural"), first.about
    )
    with pytest.raises(PlmscaleError, match="other settings, natural proteins"):
        list(TASK.differences(first, other, OPTIONS))


def test_searches_are_made_once_and_again_for_another_program(made, corpus, folder, monkeypatch):
    path = sides.file_of(made["own"], searches.NAME)
    before, state = path.stat().st_mtime_ns, sides.state(made["own"])
    predicted = made["own"].read_bytes()
    TASK.side(made["own"], OPTIONS, corpus, (), folder / "cache")
    assert path.stat().st_mtime_ns == before and set(state) == {"searches", "structures"}
    # A machine without MMseqs2 leaves what there is, and says what it lacks where there is nothing.
    monkeypatch.setenv("PLMSCALE_MMSEQS", str(folder / "none"))
    TASK.side(made["own"], OPTIONS, corpus, (), folder / "cache")
    assert path.stat().st_mtime_ns == before
    path.unlink()
    TASK.side(made["own"], OPTIONS, corpus, (), folder / "cache")
    _, about = sides.read(made["own"], searches.NAME)
    assert set(about["not_run"]) == {"low_complexity", "clusters", "train", "held_out"}
    metrics = list(TASK.score(Predictions.read(made["own"]), OPTIONS))
    (clusters,) = [m for m in metrics if m.metric == "clusters_50"]
    assert "cannot be run (No such file or directory)" in clusters.definition
    assert by(metrics)["natural", "ks_length"].value >= 0
    monkeypatch.undo()
    TASK.side(made["own"], OPTIONS, corpus, (), folder / "cache")
    assert sides.state(made["own"]) == state and made["own"].read_bytes() == predicted


def test_without_side_results_the_rest_is_there(made, tmp_path):
    predictions = Predictions.read(made["own"])
    alone = Predictions(predictions.table, predictions.about)
    found = {m.metric: m for m in TASK.score(alone, OPTIONS)}
    assert found["copied"].definition == (
        "not run: the searches of these predictions have not been made"
    )
    assert found["ks_length"].n == 10
    copy = tmp_path / "p.parquet"
    alone.write(copy)
    sides.file_of(copy, searches.NAME).write_bytes(b"no table")
    with pytest.raises(PlmscaleError, match=r"p\.searches\.parquet: not a side result"):
        list(TASK.score(Predictions.read(copy), OPTIONS))


@pytest.mark.slow
def test_a_search_that_failed_is_made_again(made, corpus, folder, tmp_path, monkeypatch):
    path = tmp_path / "p.parquet"
    Predictions.read(made["own"]).write(path)

    def broken(*_):
        raise PlmscaleError("mmseqs align failed (1)")

    monkeypatch.setattr(searches, "_held_out", broken)
    TASK.side(path, OPTIONS, corpus, (), folder / "cache")
    found = by(TASK.score(Predictions.read(path), OPTIONS))
    assert found["all", "nearest_held_out"].definition == "not run: mmseqs align failed (1)"
    assert found["natural", "nearest_identity"].value > 0
    before = sides.state(path)
    monkeypatch.undo()
    TASK.side(path, OPTIONS, corpus, (), folder / "cache")
    assert sides.read(path, searches.NAME)[1]["not_run"] == {} and sides.state(path) != before


@pytest.mark.parametrize("end", [1e4, -1e4])
def test_models_that_say_nothing_or_never_stop(tmp_path, corpus, end):
    model = example.run(tmp_path / "run", letters() | {END: end})
    predictions = TASK.predict(TASK.data(corpus, OPTIONS), model, "zero-shot", 0, OPTIONS)
    path = tmp_path / "p.parquet"
    predictions.write(path)
    TASK.side(path, OPTIONS, corpus)
    found = by(TASK.score(Predictions.read(path), OPTIONS))
    group = "T=1 top-p=0.9"
    lengths = rows_of(predictions)[group]["sequence"].str.len()
    if end > 0:
        assert set(lengths) == {0} and found[group, "empty"].value == 1
        assert found[group, "unterminated"].value == 0 and found[group, "length"].value == 0
        assert found[group, "ks_length"].value == 1 and found[group, "nearest_identity"].value == 0
        for metric in ("js_residues", "js_dipeptides", "nats_clm", "clusters_50", "duplicates"):
            assert math.isnan(found[group, metric].value) and found[group, metric].ci95 is None
    else:
        assert set(lengths) == {40} and found[group, "unterminated"].value == 1
        assert found[group, "nats_clm"].value == pytest.approx(math.log(31), abs=1e-5)
        assert found[group, "clusters_50"].value == pytest.approx(4)
    assert found["natural", "length"].value > 20


def test_logits_that_are_no_numbers(tmp_path, corpus):
    model = example.run(tmp_path / "run")
    torch.nn.init.constant_(model.module.final_norm.weight, math.nan)
    with pytest.raises(
        PlmscaleError, match="the model's logits are no numbers; has the run diverged"
    ):
        TASK.predict(TASK.data(corpus, OPTIONS), model, "zero-shot", 0, OPTIONS)
    other = constant_progen(tmp_path / "hub", letters() | {"A": math.nan})
    with pytest.raises(PlmscaleError, match="the model's logits are no numbers; has it diverged"):
        generate(other, ONE, 2, 10, 0, 2)


def test_what_cannot_be_asked(tmp_path, corpus):
    masked = models.open(save_run(tmp_path / "mlm", small_model(), "mlm"))
    data = TASK.data(corpus, OPTIONS)
    with pytest.raises(PlmscaleError, match="is a masked model"):
        TASK.predict(data, masked, "zero-shot", 0, OPTIONS)
    assert "mlm" not in TASK.kinds
    model = example.run(tmp_path / "run")
    with pytest.raises(PlmscaleError, match="no method 'probe'; there is zero-shot"):
        TASK.predict(data, model, "probe", 0, OPTIONS)
    with pytest.raises(PlmscaleError, match="generates at most 62 residues, not 63"):
        generate(model, ONE, 1, 63, 0, 1)
    headless = object.__new__(type(model))
    headless.__dict__.update(model.__dict__)
    headless.info, headless.begin = dataclasses.replace(model.info, origin="folder"), ()
    with pytest.raises(PlmscaleError, match="its class cannot generate"):
        generate(headless, ONE, 1, 5, 0, 1)
    with pytest.raises(PlmscaleError, match="no natural proteins to compare with"):
        TASK.data(None, OPTIONS)
    for wrong in ({"top_ps": (0.0,)}, {"temperatures": (-1.0,)}, {"temperatures": ()}):
        with pytest.raises(ValueError):
            Options(**wrong)
    little = write_fasta(tmp_path / "few.fasta", ["MKV", "MAA", "MCC"])
    with pytest.raises(PlmscaleError, match="3 natural held-out proteins; at least 4"):
        TASK.data(None, OPTIONS.model_copy(update={"natural": little}))


def test_natural_proteins_of_a_file_and_no_corpus(tmp_path, made):
    sequences = example.corpus(tmp_path / "c")
    more = write_fasta(
        tmp_path / "n.fasta", [s * 3 for s in ("MKVLAW", "MAGHTC", "MCCDEF", "MWYTSR")]
    )
    options = OPTIONS.model_copy(update={"natural": more})
    model = example.run(tmp_path / "run")
    predictions = TASK.predict(TASK.data(None, options), model, "zero-shot", 0, options)
    predictions.write(tmp_path / "p.parquet")
    TASK.side(tmp_path / "p.parquet", options)
    found = {m.metric: m for m in TASK.score(Predictions.read(tmp_path / "p.parquet"), options)}
    assert found["copied"].definition == "not run: no corpus was given"
    assert not math.isnan(found["low_complexity"].value) and sequences.exists()


def test_side_results_are_of_the_corpus_of_the_predictions(made, tmp_path, corpus):
    other = example.corpus(tmp_path / "other")
    manifest = read_json(other / "manifest.json")
    write_json(other / "manifest.json", manifest | {"key": "another"})
    with pytest.raises(PlmscaleError, match="are of another corpus than"):
        TASK.side(made["own"], OPTIONS, other)
    # By default what the predictions say is searched.
    path = tmp_path / "p.parquet"
    model = example.run(tmp_path / "run")
    some = OPTIONS.model_copy(update={"per_setting": 4, "temperatures": (1.0,)})
    data = TASK.data(corpus, some, trained_on=("two",))
    TASK.predict(data, model, "zero-shot", 0, some).write(path)
    TASK.side(path, some, corpus)
    assert sides.read(path, searches.NAME)[1]["sources"] == ["two"]


def test_who_was_trained_on_what(made):
    about = {name: Predictions.read_about(path)["corpus"] for name, path in made.items()}
    assert about["own"]["trained_on"] == "unknown" and about["twin"]["trained_on"] == "no"
    for name, told in (("own", True), ("twin", False)):
        found = by(TASK.score(Predictions.read(made[name]), OPTIONS))
        definition = found["T=1 top-p=0.9", "copied"].definition
        assert ("not known to be what the model was trained on" in definition) == told


def test_options_are_read_without_torch():
    code = (
        "import sys; from plmscale.downstream import tasks; tasks.task('generation');"
        "assert not {'torch', 'transformers', 'tmtools'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert tasks.task("generation") is TASK and pd.notna(mmseqs.version())
