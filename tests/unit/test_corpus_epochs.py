"""Epochs foretold from manifest and recipe, beside what the loader counts."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from training_fixtures import make_corpus, make_recipe

from plmscale.cli import main
from plmscale.corpus.alphabet import LETTERS
from plmscale.corpus.build import SCHEMA
from plmscale.corpus.epochs import epochs_table, published_manifest, write_epochs
from plmscale.corpus.mix_config import MixConfig
from plmscale.corpus.mixing import recipe_mix, tokens_per_epoch
from plmscale.errors import PlmscaleError
from plmscale.training.data import training_samples


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), proteins=400)


def test_the_loader_counts_the_same_epochs(corpus):
    """Two ways: residues and marks of the manifest here, rows of the packed stream there."""
    recipe = make_recipe() | {"budget": 1e9}
    recipe["tokens"] = 3000 * recipe["context"]
    manifest = json.loads((corpus / "manifest.json").read_text())
    table = epochs_table(manifest, [recipe]).set_index("source")
    counted = training_samples(corpus, recipe).epochs(3000)
    assert set(counted) == set(table.index)
    for source, epochs in counted.items():
        # Each epoch drops its last, incomplete row.
        assert table.at[source, "epochs"] == pytest.approx(epochs, rel=0.02)
    assert table["source_tokens"].sum() == pytest.approx(recipe["tokens"])


def test_the_loader_keeps_to_max_epochs(corpus):
    """To the row that dealing out whole rows takes: once with one source capped, once with both."""
    manifest = json.loads((corpus / "manifest.json").read_text())
    mix = MixConfig.model_validate({"weights": {"curated": 2, "diverse": 1}, "max_epochs": 2})
    recipe = make_recipe()
    recipe["corpus"] |= recipe_mix(mix, mix, ["curated", "diverse"])
    rows = {
        name: tokens_per_epoch(source["train"], recipe["context"]) // recipe["context"]
        for name, source in manifest["sources"].items()
    }
    for samples, capped in (
        (rows["curated"] * 7 // 2, {"curated"}),
        (2 * sum(rows.values()), set(rows)),
    ):
        recipe["tokens"] = samples * recipe["context"]
        read = training_samples(corpus, recipe).epochs(samples)
        for source, epochs in read.items():
            assert epochs * rows[source] <= 2 * rows[source] + 1
            assert (epochs > 1.99) == (source in capped)
        table = epochs_table(manifest, [recipe | {"budget": None}]).set_index("source")
        assert table.at["curated", "capped"]
        assert read == pytest.approx(table["epochs"].to_dict(), rel=0.02)


def test_the_longest_run_of_a_mix_and_budget_speaks_for_it(corpus):
    recipe = make_recipe() | {"budget": 1e9, "tokens": 1000}
    longer = {**recipe, "tokens": 5000}
    by_tokens = {**recipe, "budget": None, "tokens": 700}
    manifest = json.loads((corpus / "manifest.json").read_text())
    table = epochs_table(manifest, [recipe, longer, by_tokens])
    assert sorted(table["tokens"].unique()) == [700, 5000]
    assert table.loc[table["tokens"] == 700, "budget"].isna().all()


def test_a_source_that_the_corpus_lacks_is_named(tmp_path, capsys):
    corpus = make_corpus(tmp_path / "corpus", proteins=20)
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest |= {"schema": SCHEMA, "alphabet": LETTERS}
    for source in manifest["sources"].values():
        source.setdefault("test", {"sequences": 0, "residues": 0, "shards": []})
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    study = tmp_path / "other.yaml"
    study.write_text(
        "study: other\ncorpus:\n  sources:\n    elsewhere: {path: x.fasta, sha256: '"
        + "0" * 64
        + "'}\ngrid:\n  g: {kind: isoflop, budgets: [1.0e+9], sizes: [6M]}\n"
    )
    assert main(["corpus", "stats", str(corpus), "--study", str(study)]) == 2
    assert "no source elsewhere" in capsys.readouterr().err


# Cheng et al. 2024, Table 1: sequences, residues, sampling share in per cent.
UNIMETA = {
    "uniref50": (54e6, 15.2e9, 8.5),
    "uniref90_50": (102e6, 37.8e9, 19.5),
    "colabfold_c": (208e6, 37.7e9, 19.5),
    "colabfold_m": (575e6, 103e9, 52.5),
}


def unimeta():
    """Return the corpus settings as far as they tell published numbers, and a held-out source."""
    sources = {
        name: SimpleNamespace(role="train", sequences=int(sequences), residues=int(residues))
        for name, (sequences, residues, _) in UNIMETA.items()
    }
    sources["new"] = SimpleNamespace(role="held_out", sequences=None, residues=None)
    return SimpleNamespace(sources=sources)


def unimeta_recipe(tokens, budget=None, **changes):
    keys = {"weights": {name: share for name, (_, _, share) in UNIMETA.items()}, **changes}
    mix = MixConfig.model_validate(keys)
    corpus = recipe_mix(mix, mix, list(UNIMETA)) | {"name": "mix"}
    return {"corpus": corpus, "tokens": int(tokens), "budget": budget, "context": 1024}


def test_unimeta200b_at_the_largest_budget_and_run_of_the_paper():
    """1e21 FLOPs: D = 123 C^0.422 = 89.5 B (CLM) and 2.02e6 C^0.230 = 136.6 B (MLM); 10.7B: 260 B.

    Epochs by hand: tokens x share / (residues + 2 sequences). At 260 B: 22.1 / 15.308 = 1.444,
    50.7 / 38.004 = 1.334, 50.7 / 38.116 = 1.330, 136.5 / 104.15 = 1.311.
    """
    budgets = {
        "clm": unimeta_recipe(123 * 1e21**0.422, 1e21),
        "mlm": unimeta_recipe(2.02e6 * 1e21**0.230, 1.0001e21),
        "10.7B": unimeta_recipe(260e9),
    }
    manifest = published_manifest(unimeta())
    table = epochs_table(manifest, budgets.values())
    assert not table["capped"].any()

    def epochs(name):
        rows = table[table["tokens"] == budgets[name]["tokens"]]
        return rows.set_index("source")["epochs"].round(3).to_dict()

    assert epochs("10.7B") == {
        "uniref50": 1.444, "uniref90_50": 1.334, "colabfold_c": 1.330, "colabfold_m": 1.311,
    }  # fmt: skip
    # Nothing is repeated at the CLM optimum of the IsoFLOP grid's largest budget, nor at MLM's.
    assert epochs("clm") == {
        "uniref50": 0.497, "uniref90_50": 0.459, "colabfold_c": 0.458, "colabfold_m": 0.451,
    }  # fmt: skip
    assert max(epochs("mlm").values()) == epochs("mlm")["uniref50"] == 0.758


def test_unimeta200b_in_one_epoch_of_each_source():
    """260 B tokens with 15.308 B of UniRef50 at most once leave no room: 195.6 B are there."""
    manifest = published_manifest(unimeta())
    with pytest.raises(PlmscaleError, match=r"corpus.mixes.mix: max_epochs leaves 195,5\d\d,"):
        epochs_table(manifest, [unimeta_recipe(260e9, max_epochs=1)])
    table = epochs_table(manifest, [unimeta_recipe(260e9, max_epochs={"uniref50": 1})])
    table = table.set_index("source")
    assert table["capped"].to_dict() == dict.fromkeys(UNIMETA, False) | {"uniref50": True}
    assert table.at["uniref50", "epochs"] == pytest.approx(1, rel=1e-6)
    # The others share the 6.8 B that it gives up by 19.5 : 19.5 : 52.5.
    assert table.at["colabfold_m", "source_tokens"] == pytest.approx(
        (260e9 - 15.308e9) * 52.5 / 91.5, rel=1e-6
    )


def test_a_source_without_published_numbers_is_named():
    corpus = unimeta()
    corpus.sources["colabfold_c"].residues = None
    with pytest.raises(PlmscaleError, match=r"corpus.sources.colabfold_c: residues of its release"):
        published_manifest(corpus)


def test_epochs_as_a_file(tmp_path):
    table = epochs_table(published_manifest(unimeta()), [unimeta_recipe(1e9), unimeta_recipe(9e9)])
    write_epochs(tmp_path / "stats" / "epochs.csv", table)
    again = pd.read_csv(tmp_path / "stats" / "epochs.csv")
    assert list(again) == list(table) and len(again) == 8
    assert again["capped"].dtype == bool and again["budget"].isna().all()
