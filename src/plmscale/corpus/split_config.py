"""Typed settings of the split into training, validation and test."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SplitConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["clusters", "search"] = Field(
        "clusters",
        description="clusters: whole MMseqs2 clusters are held out, training keeps everything "
        "else (up to some 10 million sequences); search: sequences are held out by their hash and "
        "training loses what is near them (any size, bounded memory).",
    )
    min_seq_id: float = Field(
        0.5,
        gt=0,
        le=1,
        description="No validation sequence has a training sequence at or above this identity ...",
    )
    coverage: float = Field(
        0.8, gt=0, le=1, description="... over this share of the validation sequence."
    )
    sensitivity: float = Field(4.0, ge=1, le=7.5, description="MMseqs2's -s in searches.")
    valid_fraction: float = Field(
        0.05, gt=0, lt=1, description="Share of each source's residues held out for validation."
    )
    max_valid_residues: int = Field(
        20_000_000,
        ge=1,
        description="At most so many residues of a source in validation, and in the test "
        "set of test_fraction, with method search.",
    )
    test_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="With method search: share of each source's residues that is held out, too, "
        "whatever is near it in training: a test set with every identity. With method clusters "
        "the test set is what was held out but turned out near training.",
    )
    protect: bool = Field(
        True,
        description="Training sequences near a held-out source (role: held_out) are left out; "
        "false: they stay, and the test set is only binned by identity.",
    )
    seed: int = Field(0, ge=0, description="What is held out.")

    @model_validator(mode="after")
    def _leaves_something(self) -> SplitConfig:
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction and test_fraction leave nothing to train on")
        return self
