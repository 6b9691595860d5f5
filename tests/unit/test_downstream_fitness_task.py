"""Zero-shot fitness with a small network, against the network called by hand."""

from __future__ import annotations

import dataclasses

import downstream_data_example as example
import numpy as np
import pytest
import torch
from inference_fixtures import save_run, small_model

from plmscale.corpus.alphabet import BOS, EOS, MASK, STANDARD, encode
from plmscale.downstream import models, registry
from plmscale.downstream.base import Data, Example, Predictions
from plmscale.downstream.fitness import scores, variants
from plmscale.downstream.tasks.fitness import TASK, Options
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)
RNG = np.random.default_rng(4)
WILD = "".join(RNG.choice(list(STANDARD), 30))
small = pytest.mark.skipif(
    not example.SMALL.is_dir(), reason=f"{example.SMALL} (small real data) is not there"
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """(network, adapter) by kind; the context takes the whole wild type."""
    out = {}
    for kind in ("clm", "mlm"):
        network = small_model()
        out[kind] = network, models.open(save_run(tmp_path_factory.mktemp(kind), network, kind))
    return out


def narrow(adapter, context):
    """The same model with a shorter context."""
    other = object.__new__(type(adapter))
    other.__dict__.update(adapter.__dict__)
    other.info = dataclasses.replace(adapter.info, context=context)
    return other


def single(position, letter, wild=WILD):
    return f"{wild[position]}{position + 1}{letter}"


def some_variants(wild=WILD):
    words = [single(0, "W"), single(14, "C"), single(29, "H"), single(14, wild[14])]
    words.append(":".join([single(3, "P"), single(20, "D")]))
    return [variants.read(wild, word) for word in words]


def log_p(network, text, causal, masked=None):
    """Log-probabilities (length + 2, vocabulary) of a protein alone, one place masked."""
    tokens = torch.tensor([[BOS, *encode(text).tolist(), EOS]])
    if masked is not None:
        tokens[0, masked + 1] = MASK
    with torch.no_grad():
        return torch.log_softmax(network(tokens, causal=causal)[0].double(), -1).numpy()


def ratio(row, old, new):
    return row[encode(new)[0]] - row[encode(old)[0]]


def likelihood(network, text):
    table, tokens = log_p(network, text, True), encode(text)
    return sum(table[i, token] for i, token in enumerate(tokens))


def test_masked_and_wild_type_marginals_are_the_networks_own(opened):
    network, adapter = opened["mlm"]
    some = some_variants()
    plain = log_p(network, WILD, False)
    masked = [
        sum(
            ratio(log_p(network, WILD, False, at)[at + 1], old, new) for at, old, new in v.mutations
        )
        for v in some
    ]
    wt = [sum(ratio(plain[at + 1], old, new) for at, old, new in v.mutations) for v in some]
    assert scores.marginals(adapter, WILD, some, "masked") == pytest.approx(masked, abs=1e-4)
    assert scores.marginals(adapter, WILD, some, "wt") == pytest.approx(wt, abs=1e-4)
    assert np.abs(np.subtract(masked, wt)).max() > 0.01
    # A synonymous variant is the wild type.
    assert masked[3] == 0


def test_likelihood_of_a_causal_model_is_the_networks_own(opened):
    network, adapter = opened["clm"]
    some = some_variants()
    expected = [likelihood(network, v.sequence) - likelihood(network, WILD) for v in some]
    found, outside = scores.likelihood(adapter, WILD, some)
    assert found == pytest.approx(expected, abs=1e-4) and outside == 0
    assert found[3] == 0


def test_a_model_trained_in_both_directions_scores_their_mean(opened):
    network, adapter = opened["clm"]
    both = narrow(adapter, adapter.info.context)
    both.reversible = True
    both.encode_reversed = lambda texts: adapter.encode([text[::-1] for text in texts])
    some = some_variants()
    expected = [
        np.mean(
            [likelihood(network, v.sequence[::s]) - likelihood(network, WILD[::s]) for s in (1, -1)]
        )
        for v in some
    ]
    assert scores.likelihood(both, WILD, some, both=True)[0] == pytest.approx(expected, abs=1e-4)
    rows = [(single(5, "W"), 1.0), (single(6, "W"), 2.0)]
    for model, options, words in (
        (both, Options(), "both directions"),
        (both, Options(both_directions=False), "forwards"),
        (adapter, Options(), "forwards"),
    ):
        made = TASK.predict(data([("a", WILD, rows)]), model, "zero-shot", 0, options, None)
        assert words in made.about["scoring"]


def test_pseudo_likelihood_masks_every_residue(opened):
    network, adapter = opened["mlm"]
    some = some_variants()[:2]

    def pseudo(text):
        return sum(log_p(network, text, False, i)[i + 1, t] for i, t in enumerate(encode(text)))

    expected = [pseudo(v.sequence) - pseudo(WILD) for v in some]
    found, _ = scores.likelihood(adapter, WILD, some)
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("position", "start"),
    # Ten residues: the mutation in the middle, or the first or the last window.
    [(0, 0), (4, 0), (5, 0), (6, 1), (14, 9), (24, 19), (25, 20), (29, 20)],
)
def test_windows_have_the_mutation_in_the_middle(opened, position, start):
    network, adapter = opened["mlm"]
    variant = variants.read(WILD, single(position, "W" if WILD[position] != "W" else "A"))
    cut, at = WILD[start : start + 10], position - start
    expected = ratio(
        log_p(network, cut, False, at)[at + 1], WILD[position], variant.sequence[position]
    )
    # Whether the model takes no more, or the option asks for it.
    for model, window in ((narrow(adapter, 10), 0), (narrow(adapter, 10), 20), (adapter, 10)):
        found = scores.marginals(model, WILD, [variant], "masked", window)
        assert found == pytest.approx([expected], abs=1e-4)
    network, adapter = opened["clm"]
    new = variant.sequence[start : start + 10]
    found, outside = scores.likelihood(narrow(adapter, 10), WILD, [variant])
    assert found == pytest.approx([likelihood(network, new) - likelihood(network, cut)], abs=1e-4)
    assert outside == 0


def test_what_a_window_does_not_reach_is_counted(opened):
    adapter = opened["clm"][1]
    far = variants.read(WILD, ":".join([single(0, "W"), single(29, "W")]))
    near = variants.read(WILD, ":".join([single(12, "W"), single(15, "W")]))
    found, outside = scores.likelihood(adapter, WILD, [far, near], window=10)
    assert outside == 1 and found[0] == 0 and found[1] != 0


def data(assays, source="full"):
    """Data of (assay, wild type, [(mutant, value)]) rows; every second protein is its own."""
    found = []
    for number, (assay, wild, rows) in enumerate(assays):
        for mutant, value in rows:
            read = variants.read(wild, mutant)
            extra = {
                "mutant": mutant,
                "target_seq": wild,
                "uniprot": f"P{number}",
                "selection": "Binding" if number % 2 else "Activity",
                "DMS_score_bin": int(value > 0),
            }
            sequence = read.sequence or wild
            found.append(Example(mutant, sequence, "test", value, assay, extra))
    return Data("fitness", source, tuple(found), "0" * 64)


def all_singles(wild=WILD, seed=0):
    """Every substitution by W, A, C of every position with a made-up value."""
    rng = np.random.default_rng(seed)
    words = [single(i, c, wild) for i in range(len(wild)) for c in "WAC" if c != wild[i]]
    return [(word, float(rng.normal())) for word in words]


def named(metrics):
    return {(m.group, m.metric): m for m in metrics}


@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_a_model_that_knows_the_truth_is_perfect(opened, kind, tmp_path):
    """Measured values that are a model's own scores: it ranks them without a mistake."""
    adapter = opened[kind][1]
    rows = all_singles()
    read = [variants.read(WILD, mutant) for mutant, _ in rows]
    if kind == "mlm":
        truth = scores.marginals(adapter, WILD, read, "masked")
    else:
        truth = scores.likelihood(adapter, WILD, read)[0]
    rows = [(mutant, float(value)) for (mutant, _), value in zip(rows, truth)]
    made = TASK.predict(data([("a", WILD, rows)]), adapter, "zero-shot", 0, Options(), None)
    made.write(tmp_path / "p.parquet")
    again = Predictions.read(tmp_path / "p.parquet")
    assert again.table.column("prediction").to_pylist() == pytest.approx(truth.tolist())
    assert again.about["model"]["name"] == adapter.info.name
    found = named(TASK.score(again, Options(replicates=100)))
    assert found["a", "spearman"].value == pytest.approx(1)
    assert found["a", "recall_top10"].value == 1 and found["a", "ndcg"].value == pytest.approx(1)
    assert found["average", "spearman"].value == pytest.approx(1)
    assert "1 of 5 selection types" in found["average", "spearman"].definition
    twin = TASK.predict(data([("a", WILD, rows)]), adapter.twin(1), "zero-shot", 0, Options(), None)
    gain = named(TASK.differences(again, twin, Options(replicates=100)))["a", "spearman"]
    other = named(TASK.score(twin, Options(replicates=100)))["a", "spearman"].value
    assert gain.value == pytest.approx(1 - other) and gain.ci95[0] > 0
    assert gain.ci95[0] < gain.value < gain.ci95[1]


def test_what_cannot_be_scored_is_told_and_the_rest_is_as_before(opened):
    adapter = opened["mlm"][1]
    rows = all_singles()
    odd = [("K2*", 0.1), (single(3, "X"), 0.2), ("junk", 0.3), ("A99C", 0.4)]
    clean = TASK.predict(data([("a", WILD, rows)]), adapter, "zero-shot", 0, Options(), None)
    made = TASK.predict(data([("a", WILD, rows + odd)]), adapter, "zero-shot", 0, Options(), None)
    table = made.table.to_pandas()
    assert table["skipped"].tolist()[-4:] == [
        variants.STOP, variants.NONSTANDARD, variants.UNREADABLE, variants.MISFIT,
    ]  # fmt: skip
    assert table["prediction"].isna().sum() == 4
    assert "a: 1 variants not scored: stop codon" in made.about["notes"]
    assert list(TASK.score(made, Options())) == list(TASK.score(clean, Options()))


def test_an_assay_that_does_not_fit_is_left_out_and_told(opened):
    adapter = opened["clm"][1]
    good, bad = ("a", WILD, all_singles()), ("b", WILD[::-1], all_singles(WILD))
    made = TASK.predict(data([good, bad]), adapter, "zero-shot", 0, Options(), None)
    assert any("assay b" in note and "do not fit" in note for note in made.about["notes"])
    found = named(TASK.score(made, Options(replicates=50)))
    alone = TASK.predict(data([good]), adapter, "zero-shot", 0, Options(), None)
    assert found == named(TASK.score(alone, Options(replicates=50)))
    with pytest.raises(PlmscaleError, match=r"assay b.*do not fit"):
        TASK.predict(data([bad]), adapter, "zero-shot", 0, Options(), None)


def test_a_model_that_fails_on_an_assay_has_no_average(opened, monkeypatch):
    adapter = opened["clm"][1]
    two = data([("a", WILD, all_singles()), ("b", WILD[::-1], all_singles(WILD[::-1]))])
    whole = TASK.predict(two, adapter, "zero-shot", 0, Options(), None)
    original = scores.likelihood

    def failing(model, wild, *more):
        if wild != WILD:
            raise PlmscaleError("the likelihood is no number")
        return original(model, wild, *more)

    monkeypatch.setattr(scores, "likelihood", failing)
    made = TASK.predict(two, adapter, "zero-shot", 0, Options(), None)
    found = named(TASK.score(made, Options(replicates=50)))
    assert (
        found["a", "spearman"].value == named(TASK.score(whole, Options()))["a", "spearman"].value
    )
    assert np.isnan(found["b", "spearman"].value) and np.isnan(found["average", "spearman"].value)
    assert found["assays", "undefined_assays"].value == 1
    gains = named(TASK.differences(whole, made, Options(replicates=50)))
    assert gains["a", "spearman"].value == 0 and np.isnan(gains["average", "spearman"].value)


def test_a_constant_predictor_is_undefined_and_not_zero():
    rows = [(mutant, value) for mutant, value in all_singles()]
    made = TASK.predict(data([("a", WILD, rows)]), None, "baseline:mutations", 0, Options(), None)
    found = named(TASK.score(made, Options()))
    assert all(np.isnan(found[g, "spearman"].value) for g in ("a", "Activity", "average", "assays"))
    assert found["assays", "undefined_assays"].value == 1


def test_variants_with_several_mutations_have_numbers_of_their_own():
    rng = np.random.default_rng(8)
    singles = all_singles()
    doubles = [
        (":".join([single(i, "P"), single(j, "G")]), float(rng.normal()))
        for i, j in zip(range(12), range(15, 27))
        if WILD[i] != "P" and WILD[j] != "G"
    ]
    both = data([("a", WILD, singles + doubles)])
    made = TASK.predict(both, None, "baseline:substitution", 0, Options(), None)
    found = named(TASK.score(made, Options(replicates=50)))
    for name, part in (("1", singles), ("2", doubles)):
        alone = TASK.predict(
            data([("a", WILD, part)]), None, "baseline:substitution", 0, Options(), None
        )
        expected = named(TASK.score(alone, Options(replicates=50)))["average", "spearman"].value
        assert found[f"average/mutations:{name}", "spearman"].value == pytest.approx(expected)
    assert ("average/mutations:3", "spearman") not in found


def test_a_part_of_the_variants_is_the_same_for_all(opened):
    rows = all_singles()
    options = Options(variants=20)
    ids = []
    for model, method, seed in ((None, "baseline:random", 3), (opened["mlm"][1], "zero-shot", 0)):
        made = TASK.predict(data([("a", WILD, rows)]), model, method, seed, options, None)
        ids.append(made.table.column("id").to_pylist())
    assert ids[0] == ids[1] and len(ids[0]) == 20
    found = named(TASK.score(made, options))["a", "spearman"]
    assert "variants=20" in found.definition and found.n == 20
    whole = TASK.predict(data([("a", WILD, rows)]), None, "baseline:random", 0, Options(), None)
    with pytest.raises(PlmscaleError, match="other variants"):
        list(TASK.differences(whole, made, options))
    # The small source has a limit of its own.
    many = data([("a", WILD, rows * 5)], "small")
    assert len(TASK.predict(many, None, "baseline:random", 0, Options(), None).table) == 300


def test_wrong_methods_and_options_are_told(opened):
    one = data([("a", WILD, all_singles())])
    with pytest.raises(PlmscaleError, match=r"no method 'baseline:luck'.*zero-shot.*substitution"):
        TASK.predict(one, None, "baseline:luck", 0, Options(), None)
    with pytest.raises(PlmscaleError, match="no method 'lora'"):
        TASK.predict(one, opened["mlm"][1], "lora", 0, Options(), None)
    with pytest.raises(PlmscaleError, match="zero-shot needs a model"):
        TASK.predict(one, None, "zero-shot", 0, Options(), None)
    with pytest.raises(ValueError, match="mask"):
        Options(mask=3)
    changed = Options(mlm="wt-marginals", window=500)
    made = TASK.predict(one, opened["mlm"][1], "zero-shot", 0, changed, None)
    assert "wt-marginals, window 500" in made.about["scoring"]
    definition = next(iter(TASK.score(made, changed))).definition
    assert "mlm=wt-marginals, window=500" in definition


@small
def test_baselines_on_the_small_real_data():
    """Measured here: BLOSUM62 0.400 and 0.347; a number drawn at random is near 0."""
    real = registry.data("fitness", "small", example.SMALL)
    found = {}
    for name in ("random", "substitution"):
        made = TASK.predict(real, None, f"baseline:{name}", 0, Options(variants=0), None)
        assert len(made.table) == 5166 and set(made.table.column("skipped").to_pylist()) == {""}
        found[name] = named(TASK.score(made, Options(replicates=50)))
    assay = {"B2L11_HUMAN_Dutta_2010_binding-Mcl-1": 0.400, "BLAT_ECOLX_Stiffler_2015": 0.347}
    for name, value in assay.items():
        assert found["substitution"][name, "spearman"].value == pytest.approx(value, abs=0.005)
        chance = found["random"][name, "spearman"]
        assert abs(chance.value) < 4 * chance.se
    average = found["substitution"]["average", "spearman"]
    assert "2 of 5" in average.definition and average.se is None


@small
@pytest.mark.bands
def test_unirep_on_b2l11_is_as_published():
    """ProteinGym publishes 0.216 for UniRep on this assay."""
    from unirep_example import UniRepAdapter

    assay = "B2L11_HUMAN_Dutta_2010_binding-Mcl-1"
    real = registry.data("fitness", "small", example.SMALL, groups=[assay])
    made = TASK.predict(real, UniRepAdapter(1900), "zero-shot", 0, Options(variants=0), None)
    found = named(TASK.score(made, Options(replicates=50)))
    assert round(found[assay, "spearman"].value, 3) == 0.216
