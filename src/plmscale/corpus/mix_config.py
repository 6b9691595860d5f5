"""Typed settings of a mix: which sources a run reads, and in which shares of its tokens."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue

from plmscale.errors import suggest

RESERVED = ("weights", "sources", "temperature", "max_epochs")
"""Keys of a mix; no source may be named like one, as a mix may also be a mapping of sources."""

_Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_form(data: dict[Any, Any]) -> dict[Any, Any]:
    """Return the keys of a mix, also where it is given as {source: share}."""
    strangers = [str(key) for key in data if key not in RESERVED]
    if len(strangers) == len(data):
        return {"weights": data}
    if strangers:
        raise ValueError(
            f"{strangers[0]!r} stands beside {next(k for k in data if k in RESERVED)!r}: a mix "
            f"is either {{source: share}} or has the keys {', '.join(RESERVED)}"
            f"{suggest(strangers[0], RESERVED)}"
        )
    return data


class MixConfig(BaseModel):
    """A mix. `{source: share}` alone stands for `weights` without the other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: dict[str, _Share] | Literal["residues"] = Field(
        description="Share of each source by tokens (normalised), or the word residues: in "
        "proportion to the residues each source has to train on."
    )
    sources: list[str] = Field(
        [],
        description="With `weights: residues`: which sources; empty means all but held-out ones.",
    )
    temperature: _Positive = Field(
        1.0,
        description="T: shares become share^(1/T), so above 1 small sources are read more often.",
    )
    max_epochs: _Positive | dict[str, _Positive] | None = Field(
        None,
        description="A run reads a source at most this often, one number or one for each source; "
        "what a source gives up goes to the others in proportion to their shares.",
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_mapping(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = _one_form(data)
        # Of a union pydantic tells what is wrong with each member, in words that no user knows.
        weights, most = data.get("weights"), data.get("max_epochs")
        if isinstance(weights, dict):
            for name, share in weights.items():
                if not (_number(share) and share >= 0):
                    raise ValueError(
                        f"{name}: a share must be a number of at least 0 (found {share!r})"
                    )
        elif "weights" in data and weights != "residues":
            raise ValueError(
                f"weights: {{source: share}} or the word residues is expected (found {weights!r})"
            )
        for name, epochs in (most if isinstance(most, dict) else {"": most}).items():
            if epochs is not None and not (_number(epochs) and epochs > 0):
                where = f"max_epochs.{name}".rstrip(".")
                raise ValueError(f"{where}: a number above 0 is expected (found {epochs!r})")
        return data

    @model_validator(mode="after")
    def _adds_up(self) -> MixConfig:
        if self.weights == "residues":
            if len(set(self.sources)) < len(self.sources):
                raise ValueError("sources: a source is named twice")
        else:
            if self.sources:
                raise ValueError("sources stand with `weights: residues`; here weights name them")
            total = math.fsum(self.weights.values())
            if not 0 < total < math.inf:
                raise ValueError("shares must add up to more than 0")
        return self

    def short(self) -> dict[str, Any]:
        """Return what a study file would say: shares alone where nothing else is set."""
        given = self.model_dump(exclude_defaults=True)
        return (
            given["weights"] if set(given) == {"weights"} and self.weights != "residues" else given
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema of both forms, so that editors accept the short one, too."""
        shares = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}
        return {"anyOf": [handler.resolve_ref_schema(handler(core_schema)), shares]}


def check_mix(mix: MixConfig, sources: Collection[str], held_out: Collection[str] = ()) -> None:
    """Raise ValueError where `mix` does not fit a corpus' `sources`, some of them `held_out`."""
    named = list(mix.sources if mix.weights == "residues" else mix.weights)
    caps = list(mix.max_epochs) if isinstance(mix.max_epochs, dict) else []
    trained = [name for name in sources if name not in held_out]
    for name in [*named, *caps]:
        if name not in sources:
            raise ValueError(f"no source {name!r}; sources: {', '.join(sources)}")
    for name in named:
        if name in held_out:
            raise ValueError(
                f"source {name!r} is held out, so no run may read it; leave it out of the mix"
            )
    for name in caps:
        if name not in (named or trained):
            raise ValueError(f"max_epochs.{name}: the mix does not read this source")
    if not trained:
        raise ValueError("every source is held out; give one to train on")
