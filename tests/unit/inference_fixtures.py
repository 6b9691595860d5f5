"""Run folders with small random models, FASTA files, and the command line called in process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plmscale.architecture import Architecture
from plmscale.corpus.alphabet import LETTERS
from plmscale.inference.models import Loaded
from plmscale.model import Transformer, save_model

SHAPE = {"name": "2x32", "n_layers": 2, "d_model": 32, "n_heads": 2, "d_ff": 48}
RNG = np.random.default_rng(11)
# Many lengths, some twice, in no order; every letter occurs.
SEQUENCES = ["".join(RNG.choice(list(LETTERS), n)) for n in (9, 1, 30, 17, 30, 4, 62, 25, 17, 2)]


def small_model(seed: int = 3, **changes: Any) -> Transformer:
    """Return a random model whose logits differ enough that mistakes show."""
    arch = Architecture(**{**SHAPE, **changes})
    model = Transformer(arch)
    model.initialize(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.manual_seed(seed + 1))
            parameter.add_(noise, alpha=0.15)
    return model.eval()


def save_run(
    folder: Path, model: Transformer, objective: str = "clm", context: int = 64, **more: Any
) -> Path:
    """Write `model` as a finished run."""
    config = {
        "architecture": model.arch.to_dict(),
        "objective": objective,
        "packing": "within",
        "context": context,
        "run_id": f"{objective}-test",
        "format": "plmscale",
        **more,
    }
    save_model(folder, model.state_dict(), config)
    return folder


def loaded(model: Transformer, use: str = "clm", context: int = 64) -> Loaded:
    """Return `model` as `open_model` would."""
    return Loaded(model, "test", use, context, torch.device("cpu"), "fp32")


def write_fasta(path: Path, sequences: list[str] = SEQUENCES, width: int = 13) -> Path:
    """Write sequences as p0, p1, ... with descriptions, in short lines."""
    with path.open("w") as handle:
        for i, sequence in enumerate(sequences):
            lines = [sequence[k : k + width] for k in range(0, len(sequence), width)]
            handle.write("\n".join([f">p{i} number {i} of a test", *lines, ""]))
    return path


def plmscale(*words: object) -> int:
    """Call the command line; return its exit code."""
    from plmscale.cli import main

    return main([str(word) for word in words])


def failure(capsys: Any, *words: object) -> str:
    """Call a command that must fail as it should; return its one line of error."""
    capsys.readouterr()
    assert plmscale(*words) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("plmscale: error: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("plmscale: error: ")


def summary(capsys: Any, *words: object) -> dict[str, Any]:
    """Call a command with --json; return what it prints."""
    capsys.readouterr()
    assert plmscale(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)
