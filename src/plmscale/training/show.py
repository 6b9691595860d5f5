"""A batch of a run in readable form: what the model sees and what it must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus.alphabet import BOS, decode
from plmscale.errors import PlmscaleError
from plmscale.training.data import training_samples
from plmscale.training.objectives import IGNORED, examples

_WIDTH = 96


def batch_text(recipe: dict[str, Any], corpus: str | Path, step: int, show: int) -> str:
    """Return the first `show` rows of batch `step` (from 0), as the trainer of `recipe` gets it.

    `^` and `$` are begin and end of a protein, `#` a mask; below each line stands the target
    where one is asked for (for CLM the next token), a dot elsewhere. Epochs count from 0, as steps
    and rows do; a protein that a row's edge cuts counts in both rows.
    """
    if not 0 <= step < recipe["steps"]:
        raise PlmscaleError(
            f"{recipe['run_id']} has batches 0 to {recipe['steps'] - 1}, not {step}"
        )
    samples = training_samples(corpus, recipe)
    first = step * recipe["batch_rows"]
    numbers = list(range(first, first + min(show, recipe["batch_rows"])))
    rows = samples.batch(numbers)
    inputs, targets = examples(recipe, rows, numbers, recipe["data_seed"])
    lines = [
        f"{recipe['run_id']}: batch {step} of {recipe['steps']}, rows {first} to "
        f"{first + recipe['batch_rows'] - 1} ({recipe['objective']}, {recipe['context']} tokens a row)"
    ]
    for row, number in enumerate(numbers):
        source, index = samples.mixture.locate(number)
        epoch = index // samples.rows[source].rows_per_epoch
        wanted = int((targets[row] != IGNORED).sum())
        lines.append(
            f"\nrow {number} from {source}, epoch {epoch}: {_proteins(rows[row])}, {wanted} targets"
        )
        seen = decode(inputs[row])
        asked = "".join("." if t == IGNORED else decode([t]) for t in targets[row])
        for start in range(0, len(seen), _WIDTH):
            lines += [f"  {seen[start : start + _WIDTH]}", f"  {asked[start : start + _WIDTH]}", ""]
    return "\n".join(lines).rstrip()


def _proteins(row: np.ndarray) -> str:
    """Say how many proteins a row holds, one that is cut by its edge included."""
    count = int((row == BOS).sum()) + int(row[0] != BOS)
    return f"{count} protein" if count == 1 else f"{count} proteins"
