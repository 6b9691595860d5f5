"""Whether a recipe is whole and agrees with itself."""

from __future__ import annotations

from typing import Any

from plmscale.architecture import Architecture
from plmscale.errors import PlmscaleError

_KEYS = [
    *("run_id", "fingerprint", "objective", "architecture", "n_params", "corpus", "context"),
    *("packing", "mask_ratio", "batch_rows", "steps", "tokens", "optimizer", "schedule"),
    *("precision", "seed", "data_seed", "validation", "parent"),
]
SCHEMA = 2


def check(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return `recipe` if it is whole and agrees with itself; PlmscaleError names the field."""
    if recipe.get("schema") != SCHEMA:
        raise PlmscaleError(
            f"recipe: schema {recipe.get('schema')!r}; this version trains {SCHEMA}"
        )
    if missing := [key for key in _KEYS if key not in recipe]:
        raise PlmscaleError(f"recipe: {', '.join(missing)} missing")
    arch = Architecture.from_dict(recipe["architecture"])
    if recipe["n_params"] != arch.n_params:
        raise PlmscaleError(
            f"recipe.n_params: {recipe['n_params']}, the architecture has {arch.n_params}"
        )
    if recipe["steps"] < 1:
        raise PlmscaleError(
            f"recipe.steps: {recipe['steps']}; the budget is too small for one step of "
            f"{recipe['batch_rows']} rows of {recipe['context']} tokens"
        )
    tokens = recipe["steps"] * recipe["batch_rows"] * recipe["context"]
    if recipe["tokens"] != tokens:
        raise PlmscaleError(
            f"recipe.tokens: {recipe['tokens']}, but steps * batch_rows * context is {tokens}"
        )
    if recipe["objective"] not in ("clm", "mlm", "mixed"):
        raise PlmscaleError(f"recipe.objective: {recipe['objective']!r}; allowed: clm, mlm, mixed")
    if recipe["packing"] not in ("within", "across"):
        raise PlmscaleError(f"recipe.packing: {recipe['packing']!r}; allowed: within, across")
    if recipe["objective"] != "clm" and not 0 < (recipe["mask_ratio"] or 0) < 1:
        raise PlmscaleError(f"recipe.mask_ratio: {recipe['mask_ratio']!r}; between 0 and 1 for mlm")
    if recipe["objective"] == "mixed" and not 0 < (recipe.get("clm_share") or 0) < 1:
        raise PlmscaleError(
            f"recipe.clm_share: {recipe.get('clm_share')!r}; between 0 and 1 for mixed"
        )
    if recipe["schedule"]["name"] not in ("cosine", "wsd"):
        raise PlmscaleError(
            f"recipe.schedule.name: {recipe['schedule']['name']!r}; allowed: cosine, wsd"
        )
    return recipe
