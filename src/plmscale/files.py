"""Small file helpers: atomic writes, canonical JSON, checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from plmscale.errors import PlmscaleError

_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(PlmscaleError):
    """No space left, or none within the quota: the same may work later."""


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Yield a handle on a temporary file that becomes `path` only when the block ends well.

    The temporary file lies in the same folder, so the rename is atomic; after an exception
    `path` is what it was before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        binary = "b" in mode
        opened = os.fdopen(
            fd, mode, encoding=None if binary else "utf-8", newline=None if binary else "\n"
        )
        with disk_full_is_told(path), opened as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        follow_umask(name)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def follow_umask(path: str | Path) -> None:
    """Give a temporary file or folder, made private, the rights of one made the usual way.

    Results are shared within a group.
    """
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, (0o777 if os.path.isdir(path) else 0o666) & ~umask)


@contextmanager
def disk_full_is_told(path: str | Path) -> Iterator[None]:
    """Turn a full disk within the block into a PlmscaleError that names `path`."""
    try:
        yield
    except OSError as error:
        if not says_full(error):
            raise
        raise DiskFull(
            f"no space left on the disk while writing {path}; free some and start again"
        ) from error


def says_full(error: Exception) -> bool:
    """Return whether an error means a full disk; safetensors' own tells it in words alone."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {number})" in str(error) for number in _FULL)


def remove_leavings(folder: Path) -> None:
    """Remove what writes that were killed left under their temporary names (`.NAME.*.tmp`).

    Only for a folder in which nothing else is being written.
    """
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """Return `value` with every NaN or infinity inside replaced by None, which JSON can say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as sorted, indented JSON, atomically. NaN is an error: use `finite` first."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    with atomic_write(path) as handle:
        handle.write(text + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or broken one is an error that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlmscaleError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PlmscaleError(f"{path}: not valid JSON ({error})") from None


def sha256_file(path: str | Path, advance: Callable[[int], object] | None = None) -> str:
    """Return the SHA-256 of a file's bytes in hex, read in chunks; `advance` is told their sizes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            if advance:
                advance(len(chunk))
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces; whole floats as integers.

    1e11 in one YAML and 100000000000 in another mean the same, so they read the same.
    """
    return _CANONICAL.encode(_plain(value))


def _plain(item: Any) -> Any:
    # Thousands of recipes pass here whenever a job reads the rules: what most values are comes first.
    if isinstance(item, (str, int)):
        return item
    if isinstance(item, float):
        return int(item) if item.is_integer() and abs(item) < 2**63 else item
    if isinstance(item, dict):
        return {str(k): _plain(v) for k, v in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(v) for v in item]
    return item


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 in hex of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
