"""A made-up folder of training logs in the form of the released ones, without a mistake."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.paper.audit import audit
from plmscale.tables import read_runs

SHARED = Path(os.environ.get("PLMSCALE_SHARED") or Path(__file__).parents[2].parent / "shared")
RELEASED = SHARED / "paper" / "training_logs"
CONTEXT = 1024
VALID = "-tag-lm-loss-validation_valid_lm loss validation vs "
TRAIN = "-tag-lm-loss-training_lm loss vs "
AXES = {"flops": "gigaflos (without embeddings)", "tokens": "tokens", "samples": "samples"}


def steps_for(a: Architecture, rows: int, budget: float) -> int:
    """Optimizer steps that spend a budget."""
    return round(budget / (6 * a.n_params * rows * CONTEXT))


def loss_at(a: Architecture, tokens: np.ndarray, seed: int) -> np.ndarray:
    """A loss law with the jitter of the validation batches and a little of the run's own."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(5).normal(0, 0.006, 100_000)[np.arange(len(tokens))]
    law = 1.6 + 20 / a.n_params**0.2 + 60 / tokens**0.2
    return np.float32(law + shared + rng.normal(0, 0.001, len(tokens))).astype(float)


def curve(
    a: Architecture, rows: int, steps: int, axis: str = "flops", seed: int = 0, axis_n: float = 0.0
) -> pd.DataFrame:
    """Validation every 300 steps and at the last one; `axis_n` miscounts the FLOPs axis."""
    at = np.append(np.arange(300, steps, 300), steps).astype(float)
    unit = {"flops": 6 * (axis_n or a.n_params) * rows * CONTEXT / 1e9, "tokens": rows * CONTEXT,
            "samples": rows, "steps": 1}[axis]  # fmt: skip
    table = pd.DataFrame(
        {"Wall time": 1.7e9 + 2.0 * at, "Step": np.floor(at * unit).astype(np.int64)}
    )
    return table.assign(Value=loss_at(a, at * rows * CONTEXT, seed))


def training_curve(
    a: Architecture, rows: int, steps: int, axis: str = "flops", points: int = 300, seed: int = 0
) -> pd.DataFrame:
    """A random sample of single steps, as the logger keeps them."""
    rng = np.random.default_rng([9, seed])
    chosen = np.sort(rng.choice(np.arange(1, steps), points - 2, replace=False))
    at = np.unique(np.append(chosen, [steps - 1, steps])).astype(float)
    unit = {"flops": 6 * a.n_params * rows * CONTEXT / 1e9, "tokens": rows * CONTEXT,
            "samples": rows}[axis]  # fmt: skip
    loss = loss_at(a, at * rows * CONTEXT, 3) + rng.normal(0, 0.02, len(at))
    return pd.DataFrame(
        {"Wall time": 1.7e9 + 2.0 * at, "Step": np.floor(at * unit).astype(np.int64), "Value": loss}
    )


def write(folder: Path, path: str, table: pd.DataFrame) -> str:
    """Write one log; returns its path relative to the folder."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(target, index=False)
    return path


def isoflop_path(objective: str, size: str, name: str, axis: str = "flops") -> str:
    top = {"clm": "gpt", "mlm": "mlm"}[objective]
    return f"{top}_valid/approach3_flops/{size}_flops/run-{top}_{name}{VALID}{AXES[axis]}.csv"


def add_isoflop(
    folder: Path, objective: str, size: str, budget: str, rows: int = 512, seed: int = 0
) -> str:
    """Write one run of the grid under its right label."""
    a = PAPER_SIZES[size]
    table = curve(a, rows, steps_for(a, rows, float(budget)), seed=seed)
    return write(folder, isoflop_path(objective, size, f"{size}_1024l_{budget}flops"), table)


def clean_folder(folder: Path) -> Path:
    """Write nine clean runs with fourteen files: isoflop, transfer, mask ratio and corpora."""
    for i, (size, budget) in enumerate(
        (("13M", "1e18"), ("25M", "1e18"), ("25M", "3e18"), ("47M", "3e18"))
    ):
        add_isoflop(folder, "clm", size, budget, seed=i)
    a = PAPER_SIZES["47M"]
    steps = steps_for(a, 512, 3e18)
    write(folder, isoflop_path("mlm", "47M", "47M_1024l_3e18flops"), curve(a, 512, steps, seed=20))
    # The same run again, against tokens, beside one that started from CLM weights.
    write(folder, "transfer_valid/mlm/tokens/47M_3e18.csv", curve(a, 512, steps, "tokens", 20))
    tuned = {axis: curve(a, 512, steps, axis, 21) for axis in ("flops", "tokens")}
    for table in tuned.values():
        table["Value"] -= 0.2
    write(folder, f"transfer_valid/mlm/ft/run-mlm3e18_transfer_from_gpt1e18_47M{VALID}"
          f"{AXES['flops']}.csv", tuned["flops"])  # fmt: skip
    write(folder, "transfer_valid/mlm/tokens/47M_3e18_clm_pretrain_1e18.csv", tuned["tokens"])
    for i, ratio in enumerate(("0.15", "0.40")):
        write(folder, f"mask_ratio_data/47M/mask_{ratio}.csv",
              curve(a, 512, 20_123, "steps", 30 + i))  # fmt: skip
    for i, corpus in enumerate(("ur50", "all1ep")):
        name = f"run-gpt_47M_{corpus}"
        steps = round(2e11 / (512 * CONTEXT))
        write(folder, f"ur50_all1ep_valid_loss/{corpus}_clm_47M/{name}{VALID}tokens.csv",
              curve(a, 512, steps, "tokens", 40 + i))  # fmt: skip
        write(folder, f"ur50_all1ep_training_loss/{corpus}_clm_47M/{name}{TRAIN}tokens.csv",
              training_curve(a, 512, steps, "tokens", seed=i))  # fmt: skip
    return folder


def found(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Audit; return audit.csv by file, with no empty cells, and runs.csv by run_id."""
    out = folder.parent / "out"
    audit(folder, out)
    table = pd.read_csv(out / "audit.csv", keep_default_na=False).set_index("file")
    return table, read_runs(out / "runs.csv").set_index("run_id")
