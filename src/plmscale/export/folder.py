"""One export from beginning to end: check, write beside the goal, verify, rename."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from plmscale.corpus.alphabet import BOS, EOS, FIRST_RESIDUE, LETTERS, MASK, PAD
from plmscale.errors import PlmscaleError
from plmscale.export import card
from plmscale.export.mapping import Target, choose_target, hf_config, hf_tensors
from plmscale.export.shards import SHARD_BYTES, write_shards
from plmscale.export.source import Source, read_source, read_weights
from plmscale.export.tokenizer import write_tokenizer
from plmscale.export.verify import Compared, NotChecked, compare_logits
from plmscale.files import atomic_write, disk_full_is_told, follow_umask, sha256_file, write_json

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CODE = Path(__file__).parent / "remote_code"


@dataclass(frozen=True)
class Exported:
    """What was written. `compared` is None where `not_verified` says why."""

    out: str
    class_name: str
    objective: str
    dtype: str
    files: list[str]
    sha256: dict[str, str]
    compared: Compared | None
    not_verified: str
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can say them, with `class` and `max_difference` (or null)."""
        values = asdict(self)
        compared = values.pop("compared") or {}
        return {
            "class": values.pop("class_name"),
            "max_difference": compared.get("difference"),
            "largest_logit": compared.get("largest_logit"),
            **values,
        }


def export_run(
    run_dir: str | Path,
    out: str | Path,
    *,
    objective: Literal["clm", "mlm"] | None = None,
    dtype: Literal["fp32", "bf16"] = "fp32",
    remote_code: bool = False,
    force: bool = False,
    verify: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write the finished run of `run_dir` as a Hugging Face folder `out`.

    `objective` is what the model shall do; only a mixed run has a choice (mlm where not told).
    `out` appears whole or not at all; one that holds something is replaced only with `force`.
    Raises PlmscaleError for a folder that is no finished run, for damaged weights, and where the
    logits of the folder in fp32 differ from the run's own by more than rounding explains.
    """
    source = read_source(run_dir)
    objective = _objective(source, objective)
    # A link is followed: what it points to is replaced, not the link.
    goal = Path(out).resolve()
    _check_goal(goal, source.folder.resolve(), force)
    target = choose_target(source.arch.preset, objective, remote_code)
    with _beside(goal) as temporary:
        with disk_full_is_told(goal):
            _write(temporary, source, target, objective, dtype, shard_bytes)
        compared, why_not = None, "not asked for (--no-verify)"
        if verify:
            compared, why_not = _verified(source, temporary, target, dtype)
        hashes = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
        _replace(temporary, goal)
    warnings = []
    if source.diverged:
        warnings.append(f"{source.folder}: this run diverged; its weights are of no use")
    return Exported(
        out=str(out),
        class_name=target.class_name,
        objective=objective,
        dtype=dtype,
        files=sorted(hashes),
        sha256=hashes,
        compared=compared,
        not_verified=why_not,
        warnings=warnings,
    )


def _objective(source: Source, asked: str | None) -> Literal["clm", "mlm"]:
    possible = ("mlm", "clm") if source.objective == "mixed" else (source.objective,)
    if asked is not None and asked not in possible:
        raise PlmscaleError(
            f"{source.folder}: trained as {source.objective}, so --as {asked} would be a model "
            "that was never trained; leave --as out"
        )
    return asked or possible[0]  # type: ignore[return-value]


def _check_goal(goal: Path, run: Path, force: bool) -> None:
    if goal == run or goal in run.parents:
        raise PlmscaleError(f"--out {goal}: the run itself lies there; give another folder")
    if not goal.exists():
        return
    if not goal.is_dir():
        raise PlmscaleError(f"--out {goal}: a file of this name is there; give another name")
    if any(goal.iterdir()) and not force:
        raise PlmscaleError(
            f"--out {goal}: the folder is not empty; give another, or --force to replace it"
        )


@contextlib.contextmanager
def _beside(goal: Path) -> Iterator[Path]:
    """Yield a new folder next to `goal`, which is gone after the block unless it was renamed."""
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=goal.parent, prefix=f".{goal.name}.", suffix=".tmp"))
    except OSError as error:
        raise PlmscaleError(
            f"--out {goal}: the folder cannot be made there ({error.strerror})"
        ) from None
    try:
        follow_umask(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, goal: Path) -> None:
    """Rename `folder` to `goal`; what stood there is put aside first and removed last."""
    try:
        if not goal.exists() or not any(goal.iterdir()):
            os.replace(folder, goal)
            return
        with _beside(goal) as aside:
            os.replace(goal, aside)
            try:
                os.replace(folder, goal)
            except OSError:
                os.replace(aside, goal)
                raise
    except OSError as error:
        raise PlmscaleError(f"--out {goal}: cannot be replaced ({error.strerror})") from None


def _write(
    folder: Path, source: Source, target: Target, objective: str, dtype: str, shard_bytes: int
) -> None:
    torch_dtype = _DTYPES[dtype]
    name = str(torch_dtype).removeprefix("torch.")
    weights = read_weights(source)
    config = hf_config(target, source.arch, source.context, name)
    write_json(folder / "config.json", config)
    write_shards(folder, hf_tensors(target, weights, source.arch), torch_dtype, shard_bytes)
    del weights
    write_tokenizer(folder, source.context, causal=objective == "clm")
    if objective == "clm":
        write_json(folder / "generation_config.json", _generation(source.arch.vocab_size))
    if target.remote_code:
        for path in sorted(_CODE.glob("*.py")):
            shutil.copyfile(path, folder / path.name)
    with atomic_write(folder / "README.md") as handle:
        handle.write(card.model_card(source, target, objective, dtype))
    hashes = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    write_json(
        folder / "provenance.json", card.provenance(source, target, objective, dtype, hashes)
    )


def _generation(vocab_size: int) -> dict[str, Any]:
    """Sampling that writes residues and the end only: a protein holds no other token."""
    unused = range(FIRST_RESIDUE + len(LETTERS), vocab_size)
    return {
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "suppress_tokens": [PAD, BOS, MASK, *unused],
    }


def _verified(
    source: Source, folder: Path, target: Target, dtype: str
) -> tuple[Compared | None, str]:
    """Return how the logits compare, or None and why they were not compared."""
    try:
        compared = compare_logits(source.folder, folder, target, source.context)
    except NotChecked as reason:
        return None, str(reason)
    if dtype == "fp32" and compared.difference > compared.allowed:
        raise PlmscaleError(
            f"{source.folder}: logits of the exported {target.class_name} differ by "
            f"{compared.difference:.2g} (allowed: {compared.allowed:.2g}), nothing was written; try "
            "--remote-code, or --no-verify to see the folder"
        )
    return compared, ""
