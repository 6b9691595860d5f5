"""The typed study: what it accepts, what it says of mistakes, and that its files do not drift."""

import json

import pytest
import yaml

from plmscale import configfile, snakefile, study
from plmscale.corpus.source_config import file_names
from plmscale.errors import PlmscaleError

DEFAULT = study.PROJECT / "config.yaml"


def load_with(**changes):
    return study.load(DEFAULT, changes)


def test_default_study_is_the_demo():
    loaded = study.load(DEFAULT)
    assert loaded.study == "demo"
    assert set(loaded.corpus.mixes["mix"].weights) == set(loaded.corpus.sources)


def test_config_yaml_and_schema_are_what_the_types_say():
    """`make config` writes both; a change of the types without it fails here."""
    assert DEFAULT.read_text() == configfile.render(study.read_yaml(DEFAULT))
    schema = study.PROJECT / "rules/schemas/study.schema.json"
    assert schema.read_text() == configfile.schema_text()


@pytest.mark.parametrize(
    "path", sorted((study.PROJECT / "studies").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_study_is_valid_and_says_where_its_runs_come_from(path):
    assert {"overlays", "logs"} & set(study.read_yaml(path))
    assert study.load(path).study == path.stem


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainin": {}}, "trainin: unknown key; did you mean training?"),
        ({"training": {"learning_rate": 1}}, "training.learning_rate: unknown key"),
        ({"model": {"context": "long"}}, "model.context: "),
        ({"model": {"preset": "gpt"}}, "'paper' or 'modern'"),
        ({"execution": {"zero_stage": 4}}, "execution.zero_stage: "),
        ({"training": {"mask_ratio": 1.5}}, "training.mask_ratio: "),
        ({"corpus": {"clean": {"min_length": 9, "max_length": 3}}}, "max_length 3 is below min_length 9"),
        ({"grid": {"x": {"kind": "isoflop", "budgets": [1e9], "sizes": ["470m"]}}}, "did you mean 470M"),
        ({"grid": {"x": {"kind": "isoflop", "budgets": [-1], "sizes": ["6M"]}}}, "grid.x.budgets.0: "),
        ({"grid": {"x": {"kind": "isoflop", "budget": [1], "budgets": [1e9], "sizes": ["6M"]}}},
         "grid.x.budget: unknown key; did you mean budgets"),
        ({"grid": {"x": {"kind": "isoflop", "budgets": [1e9], "sizes": ["6M"], "corpus": "nowhere"}}},
         "corpus 'nowhere' is not in corpus.mixes"),
        ({"grid": {"x": {"kind": "isoflop", "budgets": [1e9], "sizes": ["6M"], "training": {"lrr": 1}}}},
         "grid.x.training.lrr: unknown key; did you mean lr?"),
        ({"laws": {"methods": ["guess"]}}, "laws.methods.0: "),
        ({"corpus": {"cleen": {}}}, "corpus.cleen: unknown key; did you mean clean?"),
        ({"corpus": {"clean": {"min_lenght": 3}}}, "corpus.clean.min_lenght: unknown key; did you mean min_length or max_length?"),
        ({"logs": {"urll": "x"}}, "logs.urll: unknown key; did you mean url?"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_key_and_what_is_allowed(changes, said):
    with pytest.raises(PlmscaleError) as error:
        load_with(**changes)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_mistakes_name_the_file(tmp_path):
    twice = tmp_path / "twice.yaml"
    twice.write_text("study: a\nstudy: b\n")
    with pytest.raises(PlmscaleError, match=r"twice.yaml.*'study' stands twice"):
        study.load(twice)
    with pytest.raises(PlmscaleError, match=r"none.yaml: no such study file"):
        study.load(tmp_path / "none.yaml")


def test_an_overlay_replaces_the_grid_and_merges_the_rest(tmp_path):
    over = tmp_path / "mine.yaml"
    over.write_text(
        f"overlays: {DEFAULT}\nstudy: mine\ntraining: {{weight_decay: 0.5}}\n"
        "grid:\n  one: {kind: isoflop, budgets: [1.0e+12], sizes: [3M]}\nsubsets: {}\n"
    )
    mine, default = study.load(over), study.load(DEFAULT)
    assert list(mine.grid) == ["one"]
    assert mine.training.weight_decay == 0.5
    assert mine.training.lr == default.training.lr
    assert mine.corpus == default.corpus


def test_snakemake_config_and_command_line_agree_with_the_command_line_tool(tmp_path):
    """Snakemake merges --configfile and --config its own way; the study must not notice."""
    over = tmp_path / "mine.yaml"
    over.write_text(
        f"overlays: {DEFAULT}\nstudy: mine\n"
        "grid:\n  one: {kind: isoflop, budgets: [1.0e+12], sizes: [3M]}\nsubsets: {}\n"
    )
    raw = yaml.safe_load(over.read_text())
    loaded, choice = snakefile.load(raw, [over], study.PROJECT)
    assert loaded == study.load(over)
    assert choice == {"select": "", "subset": ""}
    raw = {**raw, "training": {"seed": 5}, "select": "objective:mlm"}
    loaded, choice = snakefile.load(raw, [over], study.PROJECT)
    assert loaded == study.load(over, {"training": {"seed": 5}})
    assert choice["select"] == "objective:mlm"
    default, _ = snakefile.load({"training": {"seed": 5}}, [], study.PROJECT)
    assert default.training.seed == 5 and default.study == "demo"


def test_views_of_different_selections_lie_apart():
    whole = snakefile.view_folder("results/demo", {"select": "", "subset": ""})
    some = snakefile.view_folder("results/demo", {"select": "objective:mlm", "subset": ""})
    other = snakefile.view_folder("results/demo", {"select": "objective=mlm", "subset": ""})
    named = snakefile.view_folder("results/demo", {"select": "", "subset": "transfer"})
    assert whole == "results/demo"
    assert len({whole, some, other, named}) == 4
    assert named == "results/demo/subsets/transfer"


def test_schema_is_plain_json():
    assert json.loads(configfile.schema_text())["additionalProperties"] is False


def test_a_study_of_released_logs_needs_neither_corpus_nor_grid(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("study: mine\nlogs: some/folder\n")
    loaded = study.load(path)
    assert loaded.logs.path == "some/folder"
    assert loaded.logs.last == 5
    assert loaded.corpus is None

    from plmscale.cli import main

    assert main(["plan", str(path)]) == 2
    assert "reads finished runs from logs, so it has no grid" in capsys.readouterr().err


def test_runs_come_from_one_place(tmp_path):
    with pytest.raises(PlmscaleError, match="logs: runs come from released logs, so corpus"):
        load_with(logs="some/folder")
    path = tmp_path / "empty.yaml"
    path.write_text("study: mine\n")
    with pytest.raises(PlmscaleError, match="corpus: this key is required"):
        study.load(path)


def test_mirrors_stand_beside_an_address_and_change_nothing_that_is_built():
    source = {"url": "https://one.org/x.fasta.gz", "path": "", "sha256": "a" * 64}
    mirrored = {**source, "mirrors": ["https://two.org/x.fasta.gz"]}
    base = study.read_yaml(DEFAULT)["corpus"] | {"mixes": {}}
    grid = {"g": {"kind": "isoflop", "budgets": [1e9], "sizes": ["6M"]}}
    one, two = (
        load_with(corpus={**base, "sources": {"s": s}, "mixes": {"mix": {"s": 1}}}, grid=grid)
        for s in (source, mirrored)
    )
    assert one.corpus.key() == two.corpus.key()
    assert snakefile.corpus_folder(one) == snakefile.corpus_folder(two)
    assert file_names(one.corpus.sources["s"]) == file_names(two.corpus.sources["s"])
    with pytest.raises(PlmscaleError, match="mirrors stand beside a url"):
        load_with(corpus={"sources": {"s": {**mirrored, "url": "", "path": "x.fasta"}}}, grid=grid)
