"""Does transformers compute from the exported folder what our model computes?"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plmscale.corpus.alphabet import BOS, EOS, FIRST_RESIDUE, LETTERS, MASK
from plmscale.errors import PlmscaleError
from plmscale.export.mapping import Target
from plmscale.model import load

# Of logits in fp32, where none is larger than 1; else relative to the largest.
TOLERANCE = 1e-4
# Short: transformers computes rotary angles in fp32, which at residue 300 costs more than all else.
_LENGTHS = (1, 7, 40, 100)
_SEED = 20240


class NotChecked(Exception):
    """Why nothing could be compared, in a few words."""


@dataclass(frozen=True)
class Compared:
    """Over all logits: largest absolute difference to the run's own, and largest of these."""

    difference: float
    largest_logit: float

    @property
    def allowed(self) -> float:
        """The largest difference that rounding in fp32 explains."""
        return TOLERANCE * max(1.0, self.largest_logit)


def compare_logits(run_dir: Path, folder: Path, target: Target, context: int) -> Compared:
    """Compare logits of the run and of the exported folder on a few random proteins.

    They have several lengths up to `context` and stand in one padded batch for transformers, one
    by one for our model; for an encoder some residues are masked. Raises NotChecked where
    transformers (or its class) is missing or our own logits are not finite, PlmscaleError where
    the folder's weights are not those that the class expects.
    """
    causal = target.auto_class == "AutoModelForCausalLM"
    proteins = _proteins(context, masks=not causal)
    with _quiet_transformers() as transformers, torch.inference_mode():
        theirs = _theirs(transformers, folder, target, proteins)
    ours_model = load(run_dir)
    difference = largest = 0.0
    for number, protein in enumerate(proteins):
        with torch.inference_mode():
            ours = ours_model(protein.unsqueeze(0), causal=causal)[0]
        if not ours.isfinite().all():
            raise NotChecked("the run's own logits are not finite")
        off = (ours - theirs[number, : len(protein)]).abs().max()
        # A NaN must not pass for the smaller of two numbers.
        difference = max(difference, float(off.nan_to_num(nan=torch.inf)))
        largest = max(largest, float(ours.abs().max()))
    return Compared(difference, largest)


def _proteins(context: int, masks: bool) -> list[Tensor]:
    rng = np.random.default_rng(_SEED)
    found = []
    for length in sorted({max(1, min(length, context - 2)) for length in _LENGTHS}):
        residues = rng.integers(FIRST_RESIDUE, FIRST_RESIDUE + len(LETTERS), size=length)
        if masks:
            residues[rng.random(length) < 0.15] = MASK
        found.append(torch.tensor([BOS, *residues.tolist(), EOS]))
    return found


def _theirs(transformers: Any, folder: Path, target: Target, proteins: list[Tensor]) -> Tensor:
    """Return logits (proteins, longest, vocabulary) of the exported folder in fp32."""
    cls = _remote_class(folder, target) if target.remote_code else None
    cls = cls or getattr(transformers, target.class_name, None)
    if cls is None:
        raise NotChecked(
            f"transformers {transformers.__version__} has no {target.class_name}; a newer one does"
        )
    named = f"{target.class_name} of transformers {transformers.__version__}"
    try:
        model, info = cls.from_pretrained(str(folder), output_loading_info=True)
    except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError,
            TypeError, ValueError) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        raise PlmscaleError(
            f"{named} does not load what was written ({reason}); update transformers, export with "
            "--remote-code, or skip this check with --no-verify"
        ) from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info.get(kind) or ())):
            raise PlmscaleError(
                f"{named} does not take the weights ({kind}: {', '.join(names[:3])}); update "
                "transformers, or export with --remote-code"
            )
    padded = torch.nn.utils.rnn.pad_sequence(proteins, batch_first=True)
    lengths = torch.tensor([len(p) for p in proteins])
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
    return model.float().eval()(input_ids=padded, attention_mask=mask).logits


def _remote_class(folder: Path, target: Target) -> Any:
    """Import the class from the folder itself; transformers would copy the file into its cache."""
    package = f"_plmscale_export_{folder.name.replace('.', '_')}"
    spec = importlib.util.spec_from_loader(package, None, is_package=True)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__path__ = [str(folder)]
    sys.modules[package] = module
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return getattr(importlib.import_module(f"{package}.modeling_plmscale"), target.class_name)
    finally:
        sys.dont_write_bytecode = written
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[Any]:
    """Yield transformers without its progress bars and warnings, as they were afterwards."""
    if importlib.util.find_spec("transformers") is None:
        raise NotChecked("transformers is not installed")
    import transformers
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
