"""The kinds of experiments: what each key asks for, and what is said of keys that do not fit."""

import random

import pytest
import yaml

from plmscale import cli, configfile, grid, study
from plmscale.errors import PlmscaleError

DEFAULT = study.PROJECT / "config.yaml"
ISOFLOP = {"kind": "isoflop", "budgets": [1e12, 1e13], "sizes": ["3M", "6M"]}
SMALL = {"batch_rows": {0: 4}, "min_steps": 0}


def expanded(training=None, **experiments):
    changes = {"grid": experiments, "subsets": {}, "training": {**SMALL, **(training or {})}}
    return grid.expand(study.load(DEFAULT, changes))


def recipes(**experiments):
    return {run.run_id: run.recipe for run in expanded(**experiments)}


def test_listed_runs_take_budgets_and_tokens():
    runs = expanded(
        list={
            "kind": "runs", "objectives": ["clm"],
            "runs": [{"sizes": ["3M", "6M"], "budgets": [1e12]},
                     {"sizes": ["6M"], "tokens": [1e5, 2e5], "objectives": ["mlm", "mixed"]},
                     {"sizes": ["3M"], "tokens": [1e5], "corpus": "curated"}],
        },
        isoflop={**ISOFLOP, "budgets": [1e12]},
    )  # fmt: skip
    own = [run.row() for run in runs if "list" in run.experiments]
    asked = {(r["objective"], r["architecture"], r["budget"] or round(r["tokens"], -5), r["corpus"])
             for r in own}  # fmt: skip
    assert len(own) == len(asked) == 7
    assert asked == {
        ("clm", "3M", 1e12, "mix"), ("clm", "6M", 1e12, "mix"), ("clm", "3M", 1e5, "curated"),
        *((o, "6M", t, "mix") for o in ("mlm", "mixed") for t in (1e5, 2e5)),
    }  # fmt: skip
    # The first two are runs of the profile, too.
    assert sum("isoflop" in run.experiments and "list" in run.experiments for run in runs) == 2


def published(sequences, residues):
    sources = study.read_yaml(DEFAULT)["corpus"]["sources"]
    return {
        name: {**s, "sequences": sequences, "residues": residues} for name, s in sources.items()
    }


def test_epochs_are_passes_over_the_sources_of_the_mix():
    experiments = {
        "list": {"kind": "runs", "objectives": ["clm"], "runs": [{"sizes": ["3M"], "epochs": [0.5, 2]}]},
        "again": {"kind": "repetition", "objectives": ["clm"], "corpora": ["curated", "mix"],
                  "sizes": ["3M"], "epochs": [3]},
    }  # fmt: skip
    changes = {"grid": experiments, "subsets": {}, "training": SMALL}
    with pytest.raises(PlmscaleError, match=r"grid.list.runs.0: .*corpus.sources.curated; give"):
        grid.expand(study.load(DEFAULT, changes))
    loaded = study.load(DEFAULT, {**changes, "corpus": {"sources": published(1000, 300_000)}})
    tokens = {
        (run.experiments[0], run.row()["corpus"], run.recipe["tokens"])
        for run in grid.expand(loaded)
    }
    step = loaded.model.context * 4
    once = 300_000 + 2 * 1000
    # The mix has two sources; repetition counts passes over the first of its corpora.
    wanted = [("list", "mix", once), ("list", "mix", 4 * once),
              ("again", "curated", 3 * once), ("again", "mix", 3 * once)]  # fmt: skip
    assert tokens == {(name, mix, round(count / step) * step) for name, mix, count in wanted}


def test_names_tell_mask_ratio_and_share_of_clm_where_they_are_unusual():
    plain = recipes(a={**ISOFLOP, "objectives": ["mlm"]})
    swept = recipes(a={**ISOFLOP, "objectives": ["mlm"], "mask_ratios": [0.4, 0.15, 0.125]})
    assert plain.keys() < swept.keys() and len(swept) == 3 * len(plain)
    for run_id, recipe in swept.items():
        size, name = recipe["architecture"]["name"], {0.4: "-m40", 0.125: "-m12.5", 0.15: ""}
        assert run_id.startswith(f"mlm-{size}{name[recipe['mask_ratio']]}-1e1")
    mixed = recipes(a={**ISOFLOP, "objectives": ["mixed"], "clm_shares": [0.2, 0.5],
                       "mask_ratios": [0.15, 0.3]})  # fmt: skip
    assert len(mixed) == 4 * 4
    assert sum("-m30-c20-" in run_id for run_id in mixed) == 4
    assert all(("-c20-" in i) == (r["clm_share"] == 0.2) for i, r in mixed.items())
    # One experiment's setting and a sweep of one value are the same runs.
    own = recipes(a={**ISOFLOP, "objectives": ["mlm"], "training": {"mask_ratio": 0.4}})
    assert own.keys() < swept.keys()


def test_a_sweep_of_mask_ratios_leaves_clm_alone():
    both = recipes(a={**ISOFLOP, "mask_ratios": [0.1, 0.2]})
    assert sum(r["objective"] == "clm" for r in both.values()) == 4
    assert sum(r["objective"] == "mlm" for r in both.values()) == 8
    # A transfer to CLM begins with MLM.
    pairs = [{"size": "3M", "parent_budget": 1e12, "budget": 2e12}]
    transfer = {"kind": "transfer", "objectives": ["clm"], "pairs": pairs}
    ratios = [r["mask_ratio"] for r in recipes(t={**transfer, "mask_ratios": [0.1, 0.2]}).values()]
    assert sorted(filter(None, ratios)) == [0.1, 0.2] and len(ratios) == 5


def test_pairs_have_their_own_compute_and_twins():
    pair = {"size": "3M", "parent_budget": 2e12, "budget": 1e13}
    transfer = {"kind": "transfer", "pairs": [pair], "twins": ["child", "total"]}
    runs = recipes(t=transfer, isoflop=ISOFLOP)
    own = [r for r in runs.values() if "t" in r["experiment"].split(",")]
    parent, child, alone, total = own
    assert child["parent"] == {k: parent[k] for k in ("run_id", "fingerprint")}
    assert (parent["objective"], child["objective"]) == ("clm", "mlm")
    step = 6 * parent["n_params"] * parent["batch_rows"] * parent["context"]
    for recipe, flops in ((parent, 2e12), (child, 1e13), (alone, 1e13), (total, 1.2e13)):
        assert abs(recipe["flops_6nd"] - flops) <= step / 2 and recipe["budget"] == flops
    assert alone["steps"] == child["steps"] and alone["experiment"] == "isoflop,t"
    assert child["run_id"].startswith("mlm-after-clm-3M-1e13-p2e12-mix-")
    assert len(recipes(t={**transfer, "twins": []})) == 2


def test_shares_are_swept_at_one_total():
    transfer = {"kind": "transfer", "budgets": [1e13], "sizes": ["3M"]}
    sweep = recipes(t={**transfer, "shares": [0.05, 0.2, 0.9]})
    children = {i: r for i, r in sweep.items() if r["parent"]}
    assert len(sweep) == 7
    assert [i.split("-")[5] for i in children] == ["p5", "p20", "p90"]
    for recipe in children.values():
        total = sweep[recipe["parent"]["run_id"]]["flops_6nd"] + recipe["flops_6nd"]
        step = 6 * recipe["n_params"] * recipe["batch_rows"] * recipe["context"]
        assert abs(total - 1e13) <= step / 2
    # The same recipe that a single share gives, under a name without it.
    single = recipes(t={**transfer, "share": 0.2})
    prints = {r["fingerprint"] for r in single.values()}
    assert prints < {r["fingerprint"] for r in sweep.values()}


def test_one_recipe_under_two_names_is_told(capsys, tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(
        f"overlays: {DEFAULT}\nstudy: two\ntraining: {{batch_rows: {{0: 4}}, min_steps: 0}}\n"
        "grid:\n  a: {kind: transfer, budgets: [1.0e+13], sizes: [3M]}\n"
        "  b: {kind: transfer, budgets: [1.0e+13], sizes: [3M], shares: [0.2, 0.5]}\nsubsets: {}\n"
    )
    assert cli.main(["runs", str(path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last.startswith("mlm-after-clm-3M-1e13-mix-") and " and mlm-after-clm-3M-1e13-p20-" in last
    )


MANY = {
    "isoflop": {**ISOFLOP, "seeds": [1, 2]},
    "masks": {"kind": "runs", "objectives": ["mlm"], "mask_ratios": [0.1, 0.4],
              "runs": [{"sizes": ["3M"], "tokens": [1e5]}, {"sizes": ["6M"], "budgets": [1e12]}]},
    "repeat": {"kind": "repetition", "corpora": ["curated", "mix"], "sizes": ["3M"], "tokens": 1e5},
    "transfer": {"kind": "transfer", "budgets": [1e13], "sizes": ["3M", "6M"], "shares": [0.1, 0.3],
                 "pairs": [{"size": "6M", "parent_budget": 1e12, "budget": 3e12}]},
    "mixed": {**ISOFLOP, "objectives": ["mixed"], "clm_shares": [0.5, 0.3]},
}  # fmt: skip


def shuffled(value, rng):
    """Return the same experiments with all lists and mappings in another order."""
    if isinstance(value, list):
        return rng.sample([shuffled(item, rng) for item in value], len(value))
    if isinstance(value, dict):
        keys = rng.sample(list(value), len(value))
        return {key: value[key] if key == "corpora" else shuffled(value[key], rng) for key in keys}
    return value


def unlabelled(runs):
    return {i: {k: v for k, v in r.items() if k != "experiment"} for i, r in runs.items()}


@pytest.mark.parametrize("seed", range(3))
def test_order_and_company_change_no_name_and_no_recipe(seed):
    rng = random.Random(seed)
    before = recipes(**MANY)
    assert len(before) == 40
    assert unlabelled(recipes(**shuffled(MANY, rng))) == unlabelled(before)
    for name in MANY:
        alone = recipes(**{name: MANY[name]})
        assert unlabelled(alone).items() <= unlabelled(before).items()


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        ({"kind": "runs", "runs": []}, "grid.x.runs: "),
        ({"kind": "runs", "runs": [{"sizes": ["3M"]}]}, "grid.x.runs.0: give budgets, tokens or epochs"),
        ({"kind": "runs", "runs": [{"sizes": ["3m"], "tokens": [1e5]}]}, "size '3m' is unknown; did you mean 3k or 3M"),
        ({"kind": "runs", "runs": [{"sizes": ["3M"], "token": [1e5]}]},
         "grid.x.runs.0.token: unknown key; did you mean tokens"),
        ({"kind": "runs", "runs": [{"sizes": ["3M"], "tokens": [1e5], "corpus": "curatd"}]},
         "corpus 'curatd' is not in corpus.mixes; did you mean curated"),
        ({"kind": "repetition", "corpora": ["mix"], "sizes": ["3M"]}, "give either tokens or epochs"),
        ({"kind": "repetition", "corpora": ["mix"], "sizes": ["3M"], "tokens": 1, "epochs": [1]},
         "give either tokens or epochs"),
        ({"kind": "isoflop", "budgets": [1e12, 2e12], "sizes_by_budget": {1e12: ["3M"]}},
         "sizes: none for budget 2e+12"),
        ({**ISOFLOP, "sizes_by_budget": {3e12: ["3M"]}}, "sizes_by_budget: 3e+12 is not among the budgets"),
        ({**ISOFLOP, "objectives": ["clm"], "mask_ratios": [0.1]}, "mask_ratios: nothing is masked in CLM"),
        ({**ISOFLOP, "clm_shares": [0.1]}, "clm_shares: only mixed runs have a share"),
        ({**ISOFLOP, "mask_ratios": [1.5]}, "grid.x.mask_ratios.0: "),
        ({"kind": "transfer"}, "give budgets with sizes, or pairs"),
        ({"kind": "transfer", "budgets": [1e13]}, "sizes: none for budget 1e+13"),
        ({"kind": "transfer", "sizes": ["3M"], "pairs": [{"size": "3M", "parent_budget": 1, "budget": 1}]},
         "sizes: without budgets nothing is trained"),
        ({"kind": "transfer", "pairs": [{"size": "3M", "parent": 1, "budget": 1}]},
         "grid.x.pairs.0.parent_budget: this key is required"),
        ({"kind": "isoflopp", "budgets": [1]}, "grid.x.kind: 'isoflopp' is unknown; did you mean isoflop?"),
        ({"budgets": [1]}, "grid.x.kind: this key is required"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_key(experiment, said):
    with pytest.raises(PlmscaleError) as error:
        expanded(x=experiment)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_config_written_out_means_the_same():
    """`plmscale check` prints every key; what it prints must give the same grid."""
    paper = study.load(study.PROJECT / "studies/cheng2024.yaml")
    again = study.validate(yaml.safe_load(configfile.render(paper.model_dump())))
    assert again.grid == paper.grid and again.subsets == paper.subsets
