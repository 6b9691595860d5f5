"""Members of a zip, read as a stream; nothing is unpacked."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from plmscale.errors import PlmscaleError

# ProteinGym's largest assay has 0.2 GB; more in one member is a zip made to fill the memory.
_LARGEST = 4 << 30
_LINK = 0o12


class Archive:
    """An open zip of which every member's name was checked. Raises PlmscaleError throughout."""

    def __init__(self, path: Path, bundle: zipfile.ZipFile) -> None:
        self.path, self.bundle = path, bundle
        self.names = [info.filename for info in bundle.infolist() if not info.is_dir()]
        if len(set(self.names)) != len(self.names):
            raise PlmscaleError(f"{path}: two members of the zip have the same name")
        for info in bundle.infolist():
            self._check(info)

    def member(self, name: str) -> str:
        """Return the full name of the one member whose last part is `name`."""
        found = [full for full in self.names if _visible(full) and PurePosixPath(full).name == name]
        if len(found) != 1:
            state = f"{len(found)} times" if found else "not"
            raise PlmscaleError(
                f"{self.path}: {name} is {state} in the zip; the source has changed"
            )
        return found[0]

    def endings(self, suffix: str) -> set[str]:
        """Return the last parts of the names of members that end so; hidden ones are left out."""
        return {PurePosixPath(n).name for n in self.names if n.endswith(suffix) and _visible(n)}

    @contextmanager
    def text(self, name: str) -> Iterator[io.TextIOWrapper]:
        """Open a member, found as by `member`, as text."""
        full = self.member(name)
        try:
            with self.bundle.open(full) as raw, io.TextIOWrapper(raw, "utf-8", newline="") as text:
                yield text
        except (zipfile.BadZipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise PlmscaleError(
                f"{self.path}: {full} cannot be read ({error}); fetch the zip again"
            ) from None
        except (RuntimeError, NotImplementedError) as error:
            # Encrypted, or packed by a method that Python has not.
            raise PlmscaleError(f"{self.path}: {full} cannot be read ({error})") from None

    def _check(self, info: zipfile.ZipInfo) -> None:
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename or not name.parts:
            raise PlmscaleError(
                f"{self.path}: the member {info.filename!r} would lie outside of the zip's folder; "
                "this is not the file expected"
            )
        # The upper 16 bits are the Unix mode.
        if info.external_attr >> 28 == _LINK:
            raise PlmscaleError(f"{self.path}: the member {info.filename!r} is a link")
        if info.file_size > _LARGEST:
            raise PlmscaleError(
                f"{self.path}: the member {info.filename!r} has {info.file_size / 1e9:.1f} GB, "
                f"expected less than {_LARGEST / 1e9:.1f}"
            )


@contextmanager
def open_zip(path: Path) -> Iterator[Archive]:
    """Open a zip; PlmscaleError for what is none and for a member that leaves its folder."""
    try:
        bundle = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise PlmscaleError(f"{path}: not a whole zip ({error}); fetch it again") from None
    with bundle:
        yield Archive(path, bundle)


def _visible(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
