"""Shares of the sources in a run's tokens: by weights or residues, with temperature and caps.

A mix of plain weights stands in a recipe as {source: share}. What needs the corpus' residues
stands there as a rule and is resolved from the manifest when a run starts, so that recipes and
their fingerprints can be made before the corpus is.

Temperature and caps are common ways to keep large sources from drowning small ones, and small
ones from being read over and over: Arivazhagan et al. 2019 (arXiv 1907.05019, section 4.1) sample
with share^(1/T), Chung et al. 2023 (UniMax, arXiv 2304.09151) bound the epochs of each source.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plmscale.corpus.mix_config import MixConfig
from plmscale.errors import PlmscaleError

# Digits of a resolved share: the last bits of a power differ between machines' libraries.
_DIGITS = 12


def resolve(
    mix: MixConfig | Mapping[str, Any],
    manifest: Mapping[str, Any],
    tokens: float,
    context: int = 1,
    where: str = "corpus.mixes",
) -> dict[str, float]:
    """Return the share of each source in a run of `tokens` tokens; shares add up to 1.

    `mix` is a MixConfig or the rule of a recipe, `manifest` a corpus' manifest.json (only
    sources.<name>.train.sequences and .residues are read). `context` is the tokens of a row: an
    epoch holds whole rows only. Raises PlmscaleError (it begins with `where`) for a source that is
    not in the manifest or has nothing to train on, and where all sources at their most epochs hold
    fewer than `tokens`.
    """
    return resolve_capped(mix, manifest, tokens, context, where)[0]


def resolve_capped(
    mix: MixConfig | Mapping[str, Any],
    manifest: Mapping[str, Any],
    tokens: float,
    context: int = 1,
    where: str = "corpus.mixes",
) -> tuple[dict[str, float], set[str]]:
    """Return the shares of `resolve` and the sources that are held down by max_epochs."""
    mix = mix if isinstance(mix, MixConfig) else MixConfig.model_validate(mix)
    if mix.weights == "residues":
        names = mix.sources or _trained(manifest)
        weights = {name: float(train_part(manifest, name, where)["residues"]) for name in names}
    else:
        weights = dict(mix.weights)
    shares = _tempered(weights, mix.temperature)
    most = _caps(mix, shares)
    if not most:
        return {name: _rounded(share) for name, share in shares.items()}, set()
    once = {name: tokens_per_epoch(train_part(manifest, name, where), context) for name in most}
    limits = {name: epochs * once[name] / tokens for name, epochs in most.items()}
    shares, capped = _fill(shares, limits)
    if math.fsum(shares.values()) < 1 - 1e-9:
        raise PlmscaleError(f"{where}: {_too_small(most, once, tokens)}")
    return {name: _rounded(share) for name, share in shares.items()}, capped


def train_part(
    manifest: Mapping[str, Any], name: str, where: str = "corpus.mixes"
) -> Mapping[str, Any]:
    """Return sources.<name>.train of a manifest; PlmscaleError where there is nothing to read."""
    if name not in manifest["sources"]:
        known = ", ".join(sorted(manifest["sources"]))
        raise PlmscaleError(f"{where}: source {name!r} is not in the corpus ({known})")
    part = manifest["sources"][name]["train"]
    if not part["residues"]:
        raise PlmscaleError(
            f"{where}: source {name!r} has no residues to train on; leave it out of the mix"
        )
    return part


def tokens_per_epoch(part: Mapping[str, Any], context: int = 1) -> int:
    """Return the tokens of one epoch of a manifest's part: residues and two marks a protein."""
    tokens = int(part["residues"]) + 2 * int(part["sequences"])
    return tokens // context * context


def recipe_mix(mix: MixConfig, valid: MixConfig, trained: Sequence[str]) -> dict[str, Any]:
    """Return what recipe["corpus"] says about the shares of a run trained on `mix`.

    `valid` is the mix that all runs are validated on, `trained` the study's sources that are not
    held out. "mix" and "valid_mix" hold shares where they are known without the corpus; else they
    are empty and "rule" and "valid_rule" stand beside them. A validation reads each protein at
    most once, so max_epochs has no part in it.
    """
    entry = _shares_or_rule(mix, trained)
    validated = _shares_or_rule(valid.model_copy(update={"max_epochs": None}), trained)
    return entry | {f"valid_{key}": value for key, value in validated.items()}


def resolve_recipe_mix(
    recipe: Mapping[str, Any], manifest: Mapping[str, Any], tokens: float | None = None
) -> dict[str, float]:
    """Return the shares a recipe's run is trained on, for its own `tokens` or another number.

    Rows are dealt out whole, so beyond its most epochs a source may give one row for each other
    source of the mix.
    """
    corpus = recipe["corpus"]
    if "rule" not in corpus:
        return dict(corpus["mix"])
    asked = recipe["tokens"] if tokens is None else tokens
    where = f"corpus.mixes.{corpus['name']}"
    return resolve(corpus["rule"], manifest, asked, recipe["context"], where)


def longest_recipes(
    recipes: Iterable[Mapping[str, Any]],
) -> dict[tuple[str, float], Mapping[str, Any]]:
    """Return the recipe of most tokens of each mix and budget, in the order of these keys.

    Runs that are given by tokens have no budget: each number of tokens is one of its own, negative.
    """
    longest: dict[tuple[str, float], Mapping[str, Any]] = {}
    for recipe in recipes:
        key = (recipe["corpus"]["name"], recipe["budget"] or -float(recipe["tokens"]))
        if key not in longest or recipe["tokens"] > longest[key]["tokens"]:
            longest[key] = recipe
    return {key: longest[key] for key in sorted(longest)}


def resolve_recipe_valid_mix(
    recipe: Mapping[str, Any], manifest: Mapping[str, Any]
) -> dict[str, float]:
    """Return the shares of the rows a recipe's run is validated on."""
    corpus = recipe["corpus"]
    if "valid_rule" not in corpus:
        return dict(corpus["valid_mix"])
    return resolve(corpus["valid_rule"], manifest, recipe["tokens"])


def _shares_or_rule(mix: MixConfig, trained: Sequence[str]) -> dict[str, Any]:
    """Return {"mix": shares}, or {"mix": {}, "rule": ...} where shares need the corpus.

    Mixes that mean the same give equal rules, so that they share their runs: names are sorted and
    spelled out, temperature is applied where it can be, a cap for all is one for each.
    """
    if mix.weights == "residues":
        rule: dict[str, Any] = {
            "weights": "residues",
            "sources": sorted(mix.sources or trained),
            "temperature": mix.temperature,
        }
        names: Sequence[str] = rule["sources"]
    else:
        total = sum(mix.weights.values())
        shares = {name: weight / total for name, weight in mix.weights.items() if weight > 0}
        if mix.temperature != 1:
            tempered = _tempered(shares, mix.temperature)
            shares = {name: _rounded(share) for name, share in tempered.items()}
        rule, names = {"weights": shares}, list(shares)
    if caps := _caps(mix, names):
        rule["max_epochs"] = dict(sorted(caps.items()))
    elif mix.weights != "residues":
        return {"mix": rule["weights"]}
    return {"mix": {}, "rule": rule}


def _caps(mix: MixConfig, names: Sequence[str] | Mapping[str, Any]) -> dict[str, float]:
    """Return the most epochs of each of `names` that has a limit."""
    most = mix.max_epochs
    if most is None:
        return {}
    if not isinstance(most, dict):
        return {name: float(most) for name in names}
    return {name: most[name] for name in names if name in most}


def _tempered(weights: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Return normalised weights^(1 / temperature); sources without weight are left out."""
    logs = {name: math.log(w) / temperature for name, w in weights.items() if w > 0}
    # Less the largest, because a low temperature would overflow.
    largest = max(logs.values())
    powers = {name: math.exp(value - largest) for name, value in logs.items()}
    total = math.fsum(powers.values())
    return {name: power / total for name, power in powers.items()}


def _fill(
    shares: Mapping[str, float], limits: Mapping[str, float]
) -> tuple[dict[str, float], set[str]]:
    """Return shares no larger than `limits`, and who is at its limit.

    What the capped give up goes to the others in proportion to their shares, which may bring
    some of those to their limits; with all capped the shares add up to less than 1.
    """
    capped: set[str] = set()
    filled = dict(shares)
    while over := {name for name in limits if name not in capped and filled[name] > limits[name]}:
        capped |= over
        left = 1 - math.fsum(limits[name] for name in capped)
        free = math.fsum(share for name, share in shares.items() if name not in capped)
        filled = {
            name: limits[name] if name in capped else share / free * left
            for name, share in shares.items()
        }
    return filled, capped


def _too_small(most: Mapping[str, float], once: Mapping[str, int], tokens: float) -> str:
    held = ", ".join(f"{name} {most[name]:g} x {once[name]:,}" for name in sorted(most))
    total = sum(most[name] * once[name] for name in most)
    return (
        f"max_epochs leaves {total:,.0f} tokens ({held}) for a run of {tokens:,.0f}; "
        "raise max_epochs, add sources or train for fewer tokens"
    )


def _trained(manifest: Mapping[str, Any]) -> list[str]:
    """Return the sources of a manifest that are there to be trained on."""
    sources = manifest["sources"].items()
    return sorted(name for name, source in sources if source.get("role") != "held_out")


def _rounded(share: float) -> float:
    return float(f"{share:.{_DIGITS}g}")
