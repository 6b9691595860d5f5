"""Shares of the sources of a run: by hand, and what must hold for any mix."""

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from plmscale.corpus.mix_config import MixConfig, check_mix
from plmscale.corpus.mixing import (
    recipe_mix,
    resolve,
    resolve_capped,
    resolve_recipe_mix,
    resolve_recipe_valid_mix,
)
from plmscale.errors import PlmscaleError
from plmscale.files import canonical_json


def manifest(held_out=(), **residues):
    """Return a manifest of sources with these residues in 1 sequence for each 98 of them."""
    return {
        "sources": {
            name: {
                "role": "held_out" if name in held_out else "train",
                "train": {"residues": n, "sequences": n // 98},
            }
            for name, n in residues.items()
        }
    }


# Residues and two marks a protein: 100,000, 300,000 and 600,000 tokens an epoch.
SMALL = manifest(a=98_000, b=294_000, c=588_000)


def mix(**keys):
    return MixConfig.model_validate(keys)


def test_a_plain_mapping_is_weights():
    plain = mix(curated=1, diverse=3)
    assert plain == mix(weights={"curated": 1, "diverse": 3})
    assert resolve(plain, SMALL, 1) == {"curated": 0.25, "diverse": 0.75}


def test_shares_by_residues():
    assert resolve(mix(weights="residues"), SMALL, 1) == {"a": 0.1, "b": 0.3, "c": 0.6}
    only = mix(weights="residues", sources=["a", "b"])
    assert resolve(only, SMALL, 1) == {"a": 0.25, "b": 0.75}


def test_held_out_sources_are_no_part_of_all_sources():
    there = manifest(a=98_000, b=294_000, far=0, held_out=["far"])
    assert set(resolve(mix(weights="residues"), there, 1)) == {"a", "b"}


def test_temperature():
    weights = {"a": 0.8, "b": 0.2}
    shares = resolve(mix(weights=weights, temperature=2), SMALL, 1)
    assert shares == {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 3)}  # sqrt(4) : 1
    assert resolve(mix(weights=weights, temperature=1), SMALL, 1) == weights
    flat = resolve(mix(weights="residues", temperature=1e9), SMALL, 1)
    assert all(share == pytest.approx(1 / 3, rel=1e-8) for share in flat.values())
    cold = resolve(mix(weights="residues", temperature=1e-4), SMALL, 1)  # 0.1^10000 underflows
    assert cold["c"] == 1 and cold["a"] == 0


def test_what_a_capped_source_gives_up_goes_to_the_others_by_their_shares():
    """400,000 tokens; `a` may be read once, 100,000 of them, for the 200,000 of its share."""
    capped = mix(weights={"a": 0.5, "b": 0.3, "c": 0.2}, max_epochs={"a": 1})
    shares, held = resolve_capped(capped, SMALL, 400_000)
    assert held == {"a"}
    assert shares == {
        "a": pytest.approx(0.25),
        "b": pytest.approx(0.45),
        "c": pytest.approx(0.3),
    }


def test_a_source_that_is_given_more_may_reach_its_own_cap():
    """`a` gives 0.5 - 0.1 away; `b` would get 0.72 of 1M tokens and holds 300,000."""
    capped = mix(weights={"a": 0.5, "b": 0.4, "c": 0.1}, max_epochs=1)
    shares, held = resolve_capped(capped, SMALL, 1_000_000)
    assert held == {"a", "b"}
    assert shares == {"a": 0.1, "b": 0.3, "c": pytest.approx(0.6)}


def test_caps_that_bind_nothing_change_nothing():
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    shares, held = resolve_capped(mix(weights=weights, max_epochs=4), SMALL, 100_000)
    assert shares == weights and not held


def test_a_corpus_that_is_too_small_is_told_with_its_numbers():
    capped = mix(weights="residues", max_epochs={"a": 1, "b": 1, "c": 2})
    assert sum(resolve(capped, SMALL, 1_600_000).values()) == pytest.approx(1)  # just enough
    with pytest.raises(PlmscaleError) as told:
        resolve(capped, SMALL, 1_700_000, where="corpus.mixes.mine")
    assert str(told.value) == (
        "corpus.mixes.mine: max_epochs leaves 1,600,000 tokens (a 1 x 100,000, b 1 x 300,000, "
        "c 2 x 600,000) for a run of 1,700,000; raise max_epochs, add sources or train for fewer "
        "tokens"
    )
    # A source without a cap takes whatever is left.
    capped = mix(weights="residues", max_epochs={"a": 1, "b": 1})
    assert resolve(capped, SMALL, 4_000_000)["c"] == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(40))
def test_any_mix(seed):
    """Shares add up to 1, no cap is broken, the uncapped keep their ratios, order is nothing."""
    rng = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(int(rng.integers(1, 7)))]
    there = manifest(**{name: int(10 ** rng.uniform(4, 9)) for name in names})
    weights = {name: float(w) for name, w in zip(names, rng.dirichlet(np.ones(len(names))))}
    temperature = float(rng.choice([0.5, 1, 3]))
    most = {name: float(rng.uniform(0.5, 5)) for name in names if rng.random() < 0.8}
    once = {n: s["train"]["residues"] + 2 * s["train"]["sequences"]
            for n, s in there["sources"].items()}  # fmt: skip
    tokens = 0.9 * sum(most.get(name, 5) * once[name] for name in names)
    capped = mix(weights=weights, temperature=temperature, **({"max_epochs": most} if most else {}))
    shares, held = resolve_capped(capped, there, tokens)
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-10)
    for name in names:
        epochs = shares[name] * tokens / once[name]
        assert epochs <= most.get(name, math.inf) * (1 + 1e-11)
        if name in held:
            assert epochs == pytest.approx(most[name], rel=1e-11)
    free = [name for name in names if name not in held]
    for name in free[1:]:
        expected = (weights[name] / weights[free[0]]) ** (1 / temperature)
        assert shares[name] / shares[free[0]] == pytest.approx(expected, rel=1e-9)
    turned = mix(weights=dict(reversed(weights.items())), temperature=temperature,
                 **({"max_epochs": most} if most else {}))  # fmt: skip
    assert resolve(turned, there, tokens) == shares


def test_an_epoch_holds_whole_rows():
    """100,000 tokens are 97 rows of 1,024, so `a` is held to those."""
    capped = mix(weights={"a": 1, "c": 1}, max_epochs={"a": 1})
    assert resolve(capped, SMALL, 1_024_000, context=1024)["a"] == 0.097


RECIPE = {"corpus": {"name": "m"}, "tokens": 400_000, "context": 1}


def recipe(trained, validated=None, names=("a", "b", "c"), **changes):
    entry = recipe_mix(trained, validated or mix(a=1), names)
    return {**RECIPE, "corpus": {**RECIPE["corpus"], **entry}, **changes}


def test_a_recipe_of_plain_weights_is_what_it_always_was():
    weights = {"curated": 0.15, "diverse": 0.85, "none": 0}
    entry = recipe_mix(mix(**weights), mix(curated=1, diverse=2), ["curated", "diverse", "none"])
    total = sum(weights.values())
    assert entry == {
        "mix": {"curated": 0.15 / total, "diverse": 0.85 / total},
        "valid_mix": {"curated": 1 / 3, "diverse": 2 / 3},
    }
    assert resolve_recipe_mix(recipe(mix(**weights)), SMALL) == entry["mix"]


def test_a_temperature_on_weights_is_resolved_without_the_corpus():
    entry = recipe_mix(mix(weights={"a": 4, "b": 1}, temperature=2), mix(a=1), ["a", "b"])
    assert entry["mix"] == {"a": 0.666666666667, "b": 0.333333333333}
    assert "rule" not in entry


def test_what_needs_residues_is_a_rule_until_the_corpus_is_there():
    made = recipe(mix(weights="residues", temperature=2), names=["c", "b", "a"])
    assert made["corpus"]["mix"] == {}
    assert made["corpus"]["rule"] == {
        "weights": "residues", "sources": ["a", "b", "c"], "temperature": 2.0
    }  # fmt: skip
    roots = {name: math.sqrt(n) for name, n in (("a", 1), ("b", 3), ("c", 6))}
    expected = {name: root / sum(roots.values()) for name, root in roots.items()}
    assert resolve_recipe_mix(made, SMALL) == pytest.approx(expected)


def test_a_cap_is_resolved_for_the_tokens_of_the_run():
    made = recipe(mix(weights={"a": 0.5, "c": 0.5}, max_epochs={"a": 1}))
    assert made["corpus"]["rule"] == {"weights": {"a": 0.5, "c": 0.5}, "max_epochs": {"a": 1.0}}
    assert resolve_recipe_mix(made, SMALL) == {"a": 0.25, "c": 0.75}
    assert resolve_recipe_mix(made, SMALL, tokens=200_000) == {"a": 0.5, "c": 0.5}
    with pytest.raises(PlmscaleError, match=r"^corpus.mixes.m: max_epochs leaves"):
        resolve_recipe_mix(recipe(mix(weights={"a": 1}, max_epochs=1)), SMALL)


def test_mixes_that_mean_the_same_give_equal_recipes():
    pairs = [
        (mix(weights={"a": 1, "b": 3}, max_epochs=2),
         mix(weights={"b": 0.75, "a": 0.25}, max_epochs={"b": 2, "a": 2})),
        (mix(weights="residues"), mix(weights="residues", sources=["b", "a"])),
        (mix(a=1, b=3), mix(weights={"a": 1, "b": 3}, temperature=1)),
    ]  # fmt: skip
    for one, other in pairs:
        first, second = (recipe_mix(m, mix(a=1), ["a", "b"]) for m in (one, other))
        assert canonical_json(first) == canonical_json(second)


def test_a_recipe_survives_its_file():
    made = recipe(mix(weights="residues", max_epochs=3), mix(weights="residues"))
    again = json.loads(canonical_json(made))
    assert resolve_recipe_mix(again, SMALL) == resolve_recipe_mix(made, SMALL)


def test_validation_follows_the_rule_without_the_caps():
    made = recipe(mix(a=1), mix(weights="residues", max_epochs=0.001), tokens=10**9)
    assert made["corpus"]["mix"] == {"a": 1}
    assert made["corpus"]["valid_mix"] == {}
    assert resolve_recipe_valid_mix(made, SMALL) == {"a": 0.1, "b": 0.3, "c": 0.6}
    made = recipe(mix(a=1), mix(weights={"a": 1, "b": 1}, max_epochs=1))
    assert made["corpus"]["valid_mix"] == {"a": 0.5, "b": 0.5}
    assert "valid_rule" not in made["corpus"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"weights": "residues", "temprature": 2}, "did you mean temperature"),
        ({"a": 1, "temperature": 2}, "'a' stands beside 'temperature'"),
        ({"weights": {"a": 0}}, "more than 0"),
        ({"a": 0}, "more than 0"),
        ({}, "more than 0"),
        ({"a": -1}, "a: a share must be a number of at least 0 (found -1)"),
        ({"a": float("nan")}, "(found nan)"),
        ({"a": "1"}, "(found '1')"),
        ({"weights": {"a": 1}, "sources": ["a"]}, "weights name them"),
        ({"weights": "residues", "sources": ["a", "a"]}, "named twice"),
        ({"weights": "sequences"}, "or the word residues is expected (found 'sequences')"),
        ({"weights": {"a": 1}, "temperature": 0}, "greater than 0"),
        ({"weights": {"a": 1}, "max_epochs": 0}, "max_epochs: a number above 0"),
        ({"weights": {"a": 1}, "max_epochs": {"a": 0}}, "max_epochs.a: a number above 0"),
        ({"weights": {"a": 1}, "max_epochs": "two"}, "(found 'two')"),
        ({"temperature": 2}, "Field required"),
    ],
)
def test_mistakes_are_told(keys, told):
    with pytest.raises(ValidationError) as error:
        MixConfig.model_validate(keys)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"nowhere": 1}, "no source 'nowhere'; sources: a, b, far"),
        ({"weights": "residues", "sources": ["nowhere"]}, "no source 'nowhere'"),
        ({"weights": {"a": 1}, "max_epochs": {"nowhere": 1}}, "no source 'nowhere'"),
        ({"weights": {"a": 1}, "max_epochs": {"b": 1}}, "max_epochs.b: the mix does not read"),
        ({"far": 1}, "'far' is held out"),
        ({"weights": "residues", "sources": ["far"]}, "'far' is held out"),
        ({"weights": "residues", "max_epochs": {"far": 1}}, "max_epochs.far"),
    ],
)
def test_a_mix_must_fit_its_corpus(keys, told):
    with pytest.raises(ValueError, match=told):
        check_mix(MixConfig.model_validate(keys), ["a", "b", "far"], ["far"])
    check_mix(mix(weights="residues", max_epochs={"a": 1}), ["a", "b", "far"], ["far"])


def test_sources_that_the_corpus_lacks_or_that_are_empty_are_named():
    for rule in ({"weights": "residues", "sources": ["x"]},
                 {"weights": {"x": 1}, "max_epochs": {"x": 1}}):  # fmt: skip
        with pytest.raises(PlmscaleError, match="'x' is not in the corpus"):
            resolve(rule, SMALL, 1)
        with pytest.raises(PlmscaleError, match="'x' has no residues to train on"):
            resolve(rule, manifest(x=0), 1)


def test_editors_accept_both_forms():
    short, long = (
        MixConfig.model_json_schema()["anyOf"][1],
        MixConfig.model_json_schema()["anyOf"][0],
    )
    assert short["additionalProperties"]["type"] == "number"
    assert set(long["properties"]) == {"weights", "sources", "temperature", "max_epochs"}
