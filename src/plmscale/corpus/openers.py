"""Opening FASTA that is plain, gzip, zstd or xz; the content decides which, not the name."""

from __future__ import annotations

import contextlib
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from isal import igzip, isal_zlib

from plmscale.errors import PlmscaleError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\x00"}
# Bytes at the start of a file that tell how it is packed.
START_BYTES = max(map(len, _MAGIC.values()))

# What reading a cut or damaged file raises. EOFError is a stream without its end; all three
# formats carry checksums, so a flipped byte is found, too.
DAMAGED = (
    EOFError,
    zlib.error,
    isal_zlib.IsalError,
    igzip.BadGzipFile,
    lzma.LZMAError,
    zstd.ZstdError,
)


def packing(path: str | Path) -> str:
    """Return `plain`, `gzip`, `zstd` or `xz`; raise PlmscaleError where `path` cannot be read."""
    try:
        with open(path, "rb") as handle:
            start = handle.read(START_BYTES)
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: no such FASTA file") from None
    except OSError as error:
        raise PlmscaleError(f"{path}: cannot be read: {error.strerror}") from None
    return packing_of(start)


def packing_of(start: bytes) -> str:
    """Return `plain`, `gzip`, `zstd` or `xz` by the first START_BYTES bytes."""
    return next((name for name, magic in _MAGIC.items() if start.startswith(magic)), "plain")


def unpacked(raw: BinaryIO, kind: str) -> BinaryIO:
    """Return a stream of the content of `raw`, which is packed as `kind` says."""
    if kind == "plain":
        return raw
    # ISA-L unpacks protein text at three times the speed of zlib.
    return {"gzip": igzip.open, "zstd": zstd.open, "xz": lzma.open}[kind](raw, "rb")


@contextlib.contextmanager
def open_sequences(
    path: str | Path, advance: Callable[[int], object] | None = None
) -> Iterator[BinaryIO]:
    """Open `path` for reading the bytes of its FASTA, unpacked, in a stream.

    Files of several gzip members (bgzip) or zstd frames, one after another, are read to the end.
    Reading raises one of DAMAGED where the file is cut or damaged. `advance` is told the bytes
    taken from the file, packed as they are.
    """
    kind = packing(path)
    with _Counted(path, advance) as raw, unpacked(raw, kind) as handle:  # type: ignore[arg-type]
        yield handle


class _Counted(io.FileIO):
    """A file that tells how many bytes were read from it."""

    def __init__(self, path: str | Path, advance: Callable[[int], object] | None) -> None:
        super().__init__(path)
        self._advance = advance or (lambda count: None)

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        self._advance(len(data))
        return data

    def readinto(self, buffer: bytearray) -> int:
        count = super().readinto(buffer)
        self._advance(count)
        return count
