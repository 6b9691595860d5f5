"""Typed settings of the corpus stage."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from plmscale.files import fingerprint

# Raise when the corpus code changes what the same settings yield.
CORPUS_SCHEMA = 1
_STANDARD = "ACDEFGHIKLMNPQRSTVWY"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfig(_Strict):
    path: str = Field(
        "",
        description="FASTA file (plain or .gz), relative to the project or absolute; "
        "or give `url`.",
    )
    url: str = Field(
        "", description="http(s):// or file:// address to bring it from when `path` is empty."
    )
    mirrors: list[str] = Field(
        [], description="Other addresses of the same file, tried in order after `url`."
    )
    sha256: str = Field(
        description="Checksum of the file as brought in; what decides the content is pinned by it."
    )
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Share in the default mix (normalised over sources).",
    )
    release: str = Field("", description="Release of the database, for the record.")
    licence: str = Field("", description="Licence, for the record.")
    citation: str = Field("", description="What to cite, for the record.")

    @field_validator("sha256")
    @classmethod
    def _hex(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise ValueError("must be 64 lower-case hex digits (sha256sum FILE)")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> SourceConfig:
        if bool(self.path) == bool(self.url):
            raise ValueError("give either path or url")
        if self.mirrors and not self.url:
            raise ValueError("mirrors stand beside a url")
        return self


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


class SplitConfig(_Strict):
    min_seq_id: float = Field(
        0.5,
        gt=0,
        le=1,
        description="No validation sequence has a training sequence at or above this identity ...",
    )
    coverage: float = Field(0.8, gt=0, le=1, description="... over this share of both sequences.")
    sensitivity: float = Field(
        4.0,
        ge=1,
        le=7.5,
        description="MMseqs2's -s in the search that checks the split (clustering itself is linclust).",
    )
    valid_fraction: float = Field(
        0.05, gt=0, lt=1, description="Share of each source's residues held out for validation."
    )
    seed: int = Field(0, ge=0, description="Which clusters are held out.")


class ShardConfig(_Strict):
    max_residues: int = Field(100_000_000, ge=1, description="Residues in one shard file.")


class CorpusConfig(_Strict):
    sources: dict[str, SourceConfig] = Field(
        min_length=1,
        description="Where sequences come from. Of exact duplicates across sources "
        "the first source keeps the sequence.",
    )
    mixes: dict[str, dict[str, float]] = Field(
        {}, description="Corpora to train on: shares of the sources, by tokens. `mix`, by the "
        "sources' weights, is there without being named, and is what every run is validated on."
    )  # fmt: skip
    clean: CleanConfig = Field(
        CleanConfig(), description="Which sequences stay, and with which letters."
    )
    split: SplitConfig = Field(
        SplitConfig(), description="Training and validation, decided by MMseqs2 clusters."
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
                    if isinstance(s, dict)
                }
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
        for mix, shares in self.mixes.items():
            for source, share in shares.items():
                if source not in self.sources:
                    raise ValueError(
                        f"mixes.{mix}: no source {source!r}; sources: {', '.join(self.sources)}"
                    )
                if not share >= 0:
                    raise ValueError(
                        f"mixes.{mix}.{source}: a share must be at least 0 (found {share})"
                    )
            if not sum(shares.values()) > 0:
                raise ValueError(f"mixes.{mix}: shares must add up to more than 0")
        return self

    def key(self) -> str:
        """Return the fingerprint of all that decides the corpus' content: files, rules, split.

        Paths, addresses, weights and mixes are no part of it: they change nothing in the shards.
        """
        return self.step_keys()["corpus"]

    def step_keys(self) -> dict[str, str]:
        """Return the fingerprint of what decides the outcome of each step: clean, split, corpus."""
        settings: dict[str, object] = {
            "schema": CORPUS_SCHEMA,
            # A list, because the order of the sources decides who keeps a duplicate.
            "sources": [[name, source.sha256] for name, source in self.sources.items()],
        }
        keys = {}
        for step, name in (("clean", "clean"), ("split", "split"), ("corpus", "shards")):
            settings[name] = getattr(self, name).model_dump()
            keys[step] = fingerprint(settings)
        return keys
