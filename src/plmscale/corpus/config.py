"""Typed settings of the corpus stage."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from plmscale.corpus.mix_config import RESERVED, MixConfig, check_mix
from plmscale.corpus.source_config import SourceConfig, identity
from plmscale.corpus.split_config import SplitConfig
from plmscale.files import fingerprint

# Raise when the corpus code changes what the same settings yield.
CORPUS_SCHEMA = 3
_STANDARD = "ACDEFGHIKLMNPQRSTVWY"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CleanConfig(_Strict):
    min_length: int = Field(30, ge=1, description="Shorter sequences are left out.")
    max_length: int = Field(2048, ge=1, description="Longer sequences are left out.")
    letters: dict[str, str] = Field(
        {"U": "keep", "O": "keep", "B": "keep", "Z": "keep", "X": "keep", "J": "X"},
        description="Non-standard letters: keep (a token of its own; not for J), drop (the "
        "record), or a letter to put in its place. Lower case is read as upper case; a trailing * "
        "is cut, a record with an inner * is left out.",
    )
    other: Literal["error", "drop"] = Field(
        "error",
        description="Any other sign in a sequence: an error that names the record, "
        "or drop the record.",
    )

    @model_validator(mode="after")
    def _usable(self) -> CleanConfig:
        if self.max_length < self.min_length:
            raise ValueError(f"max_length {self.max_length} is below min_length {self.min_length}")
        for letter, rule in self.letters.items():
            if letter not in "UOBZXJ" or len(letter) != 1:
                raise ValueError(f"letters.{letter}: only U, O, B, Z, X and J have a rule")
            allowed = rule in ("keep", "drop") or (len(rule) == 1 and rule in _STANDARD + "X")
            if not allowed or (letter == "J" and rule == "keep"):
                raise ValueError(
                    f"letters.{letter}: {rule!r} is not keep, drop, a standard amino acid or X"
                )
        return self


class ShardConfig(_Strict):
    max_residues: int = Field(100_000_000, ge=1, description="Residues in one shard file.")


class CorpusConfig(_Strict):
    sources: dict[str, SourceConfig] = Field(
        min_length=1,
        description="Where sequences come from. Of exact duplicates across sources the first "
        "source keeps the sequence; held-out sources come before all others.",
    )
    mixes: dict[str, MixConfig] = Field(
        {}, description="Corpora to train on: shares of the sources, by tokens. `mix`, by the "
        "sources' weights, is there without being named, and is what every run is validated on. "
        "Or `{weights: residues, temperature: 2, max_epochs: 4}`: see docs/corpus.md."
    )  # fmt: skip
    clean: CleanConfig = Field(
        CleanConfig(), description="Which sequences stay, and with which letters."
    )
    split: SplitConfig = Field(
        SplitConfig(), description="Training, validation and out-of-distribution test, by MMseqs2."
    )
    shards: ShardConfig = Field(ShardConfig(), description="Token files.")

    @model_validator(mode="before")
    @classmethod
    def _default_mix(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("sources"), dict):
            mixes = dict(data.get("mixes") or {})
            if "mix" not in mixes:
                weights = {
                    name: s.get("weight", 1.0)
                    for name, s in data["sources"].items()
                    if isinstance(s, dict) and s.get("role") != "held_out"
                }
                if weights:
                    mixes = {"mix": weights, **mixes}
            data = {**data, "mixes": mixes}
        return data

    @model_validator(mode="after")
    def _mixes_resolve(self) -> CorpusConfig:
        for name in [*self.sources, *self.mixes]:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
                raise ValueError(
                    f"{name!r}: names of sources and mixes hold only letters, digits and '_'"
                )
        if taken := [name for name in self.sources if name in RESERVED]:
            raise ValueError(f"sources.{taken[0]}: a mix has a key of this name; choose another")
        if not self.trained:
            raise ValueError("sources: every source is held out; give one to train on")
        for name, mix in self.mixes.items():
            try:
                check_mix(mix, self.sources, self.held_out)
            except ValueError as error:
                raise ValueError(f"mixes.{name}: {error}") from None
        return self

    @property
    def held_out(self) -> list[str]:
        """Names of the sources that nothing is trained on."""
        return [name for name, source in self.sources.items() if source.role == "held_out"]

    @property
    def trained(self) -> list[str]:
        """Names of the sources to train on."""
        return [name for name, source in self.sources.items() if source.role == "train"]

    @property
    def priority(self) -> list[str]:
        """Names of all sources in the order in which they keep a sequence that several hold."""
        return [*self.held_out, *self.trained]

    def key(self) -> str:
        """Return the fingerprint of all that decides the corpus' content: files, rules, split.

        Paths, addresses, weights and mixes are no part of it: they change nothing in the shards.
        Studies with the same key share one corpus.
        """
        return fingerprint(
            {
                "schema": CORPUS_SCHEMA,
                # A list, because the order of the sources decides who keeps a duplicate.
                "sources": [[name, identity(source)] for name, source in self.sources.items()],
                "clean": self.clean.model_dump(),
                "split": self.split.model_dump(),
                "shards": self.shards.model_dump(),
            }
        )
