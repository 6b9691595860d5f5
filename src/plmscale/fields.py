"""Kinds of values that the settings of a study are made of."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Objective = Literal["clm", "mlm", "mixed"]


def _slug(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
        raise ValueError("may hold only letters, digits, '_', '.' and '-'")
    return value


Slug = Annotated[str, AfterValidator(_slug)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
# A share that leaves something to both sides.
Part = Annotated[float, Field(gt=0, lt=1)]


class Strict(BaseModel):
    """Unknown keys are errors: a typo must not pass as a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
