"""Where embeddings go: Parquet, one matrix of proteins, or a folder of one array a protein."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from plmscale.errors import PlmscaleError
from plmscale.inference import outputs

_IDS = pa.schema([("id", pa.string()), ("length", pa.int64())])
_FILES = pa.schema([*_IDS, ("file", pa.string())])


def format_of(out: Path, chosen: str | None, per_residue: bool) -> str:
    """Return parquet or npy: what is `chosen`, or by the suffix of `out`; they must fit together."""
    suffix = out.suffix
    kind = chosen or {".npy": "npy", **dict.fromkeys(outputs.PARQUET, "parquet")}.get(suffix)
    if kind is None and per_residue and not suffix:
        kind = "npy"
    named = "npy" if suffix == ".npy" else "parquet" if suffix in outputs.PARQUET else None
    folder = kind == "npy" and per_residue
    if kind is None or named != (None if folder else kind):
        raise PlmscaleError(
            f"--out {out}: name a file that ends in .parquet, one in .npy for a matrix of "
            "proteins, or a folder for --per-residue --format npy"
        )
    return kind


@contextmanager
def embedding_writer(
    out: Path, kind: str, per_residue: bool, width: int
) -> Iterator[Callable[[str, int, np.ndarray], None]]:
    """Yield a function that writes the embedding of one protein."""
    with ExitStack() as stack:
        if kind == "parquet":
            values = pa.list_(pa.float32(), width)
            schema = pa.schema([*_IDS, ("embedding", pa.list_(values) if per_residue else values)])
            row = stack.enter_context(outputs.parquet_writer(out, schema))
            yield lambda name, length, v: row({"id": name, "length": length, "embedding": v})
            return
        if not per_residue:
            ids = stack.enter_context(outputs.table_writer(out.with_suffix(".ids.tsv"), _IDS))
            matrix = stack.enter_context(outputs.matrix_writer(out, width))

            def add_mean(name: str, length: int, v: np.ndarray) -> None:
                ids({"id": name, "length": length})
                matrix(v)

            yield add_mean
            return
        folder = stack.enter_context(outputs.folder_writer(out))
        index = stack.enter_context(outputs.table_writer(folder / "index.tsv", _FILES))
        count = 0

        def add_array(name: str, length: int, v: np.ndarray) -> None:
            nonlocal count
            count += 1
            outputs.save_array(folder / f"{count:08d}.npy", v)
            index({"id": name, "length": length, "file": f"{count:08d}.npy"})

        yield add_array
