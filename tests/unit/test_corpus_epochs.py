"""Epochs foretold from manifest and recipe, beside what the loader counts."""

import json

import pytest
from training_fixtures import make_corpus, make_recipe

from plmscale.cli import main
from plmscale.corpus.alphabet import LETTERS
from plmscale.corpus.epochs import epochs_table
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
    (corpus / "manifest.json").write_text(json.dumps(manifest | {"alphabet": LETTERS}))
    study = tmp_path / "other.yaml"
    study.write_text(
        "study: other\ncorpus:\n  sources:\n    elsewhere: {path: x.fasta, sha256: '"
        + "0" * 64
        + "'}\ngrid:\n  g: {kind: isoflop, budgets: [1.0e+9], sizes: [6M]}\n"
    )
    assert main(["corpus", "stats", str(corpus), "--study", str(study)]) == 2
    assert "no source elsewhere" in capsys.readouterr().err
