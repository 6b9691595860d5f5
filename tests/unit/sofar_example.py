"""Finished runs of a study with losses of a known law, as training leaves them but for the weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
from status_example import finish as finish_metrics

from plmscale.figures.speed import PARTS


def true_loss(recipe, tokens=None):
    """Return the loss of a recipe after `tokens` (all of its own by default)."""
    n, d = recipe["n_params"], recipe["tokens"] if tokens is None else tokens
    extra = 0.02 if recipe["corpus"]["name"] != "mix" else 0.0
    return 2.2 + 4.0 / n**0.16 + 9.0 / np.asarray(d, dtype=float) ** 0.19 + extra


def finish(loaded, run, *, status="done", places=("runs",), seed=0, rows=64, points=24):
    """Write metrics, curve and validation rows of a run; returns the folder of the last place.

    `places`: "runs" for its own folder, "kept" for the one beside its checkpoints.
    """
    recipe = run.recipe
    rng = np.random.default_rng([seed, int(recipe["fingerprint"][:8], 16)])
    done = status == "done"
    tokens = np.arange(1, points + 1) * recipe["tokens"] / points
    losses = true_loss(recipe, tokens) + 0.002 * rng.standard_normal(points)
    curve = pd.DataFrame(
        {
            "step": (np.arange(1, points + 1) * recipe["steps"] / points).astype(int),
            "tokens": tokens, "flops_6nd": 6.0 * recipe["n_params"] * tokens,
            "split": "valid", "loss": losses,
        }
    )  # fmt: skip
    counts = rng.integers(40, 200, rows)
    validation = pd.DataFrame(
        {
            "row": np.arange(rows), "source": "curated", "tokens": counts,
            "nll": counts * (losses[-1] + 0.05 * rng.standard_normal(rows)),
            "objective": recipe["objective"],
        }
    )  # fmt: skip
    changes = {
        "status": status, "status_detail": "" if done else "loss is nan at step 3",
        "loss": float(validation["nll"].sum() / counts.sum()) if done else None,
        "loss_se": 0.003 if done else None, "epochs": {"curated": 0.4},
        **dict.fromkeys(PARTS, 1.0),
    }  # fmt: skip
    for place in places:
        if place == "runs":
            folder = finish_metrics(loaded, run, **changes)
        else:
            # The same file under another name, written by hand: status_example knows one place.
            made = finish_metrics(loaded, run, **changes)
            folder = loaded.folder / "checkpoints" / run.run_id / "finished"
            folder.mkdir(parents=True, exist_ok=True)
            (made / "metrics.json").replace(folder / "metrics.json")
        curve.to_csv(folder / "curve.csv", index=False)
        (validation if done else validation.head(0)).to_csv(folder / "validation.csv", index=False)
    return folder
