"""A folder that is replaced as a whole: readers find the old one or the new one, never a mixture."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from plmscale.errors import PlmscaleError
from plmscale.files import disk_full_is_told, follow_umask

# What a killed command left is removed when it is surely nobody's any more.
_OLD_SECONDS = 86400.0
_TRIES = 20


@contextmanager
def replaced(folder: Path, mark: str) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends well.

    `mark` is a file that every such folder holds: one without it is somebody's own, and is left
    alone. Several processes may do this at once; the last one wins.

    Raises PlmscaleError where `folder` holds other files or cannot be made.
    """
    # A link would be replaced in place of what it leads to.
    folder = folder.resolve()
    if folder.exists() and not (folder / mark).is_file() and not _is_empty(folder):
        raise PlmscaleError(f"{folder}: holds other files; name a new or an empty folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leavings(folder)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    except OSError as error:
        raise PlmscaleError(
            f"{folder}: cannot be made ({error.strerror}); name a folder of your own with --out"
        ) from None
    try:
        with disk_full_is_told(folder):
            yield made
        follow_umask(made)
        _swap(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _swap(made: Path, folder: Path) -> None:
    """Put `made` in the place of `folder`, also while others do the same."""
    old = made.with_name(made.name.removesuffix(".tmp") + ".old.tmp")
    for attempt in range(_TRIES):
        with suppress(FileNotFoundError):
            os.rename(folder, old)
        try:
            os.rename(made, folder)
            break
        except OSError as error:
            # Another process was quicker with its own.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == _TRIES - 1:
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def _remove_leavings(folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _OLD_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
