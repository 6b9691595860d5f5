"""UniProt's RELEASE.metalink: which release the files beside it are, with sizes and MD5.

The format is Metalink 3.0 (an XML file; http://www.metalinker.org/): <version> is the release, and
each <file name="..."> has <size>, <verification><hash type="md5"> and <resources><url>.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plmscale.errors import PlmscaleError, suggest

# UniProt's largest has some thousand files.
_LARGEST = 8 << 20


@dataclass(frozen=True)
class PublishedFile:
    """What a metalink says of a file: size in bytes, MD5 in hex, addresses of the copies."""

    size: int
    md5: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Metalink:
    """A release and its files by name."""

    release: str
    files: dict[str, PublishedFile]


def read_metalink(path: str | Path, shown: str = "") -> Metalink:
    """Read the metalink at `path`; `shown` is what errors call it.

    Raises PlmscaleError where it is no metalink, has no release, or is too large to be one.
    """
    path, shown = Path(path), shown or str(path)
    if path.stat().st_size > _LARGEST:
        raise PlmscaleError(
            f"{shown}: is larger than {_LARGEST:,} bytes; it is no RELEASE.metalink"
        )
    data = path.read_bytes()
    # Entities can be made to unfold to gigabytes, or to other files; a metalink declares none.
    if re.search(rb"<!\s*(DOCTYPE|ENTITY)", data, re.IGNORECASE):
        raise PlmscaleError(f"{shown}: declares XML entities, which no RELEASE.metalink does")
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise PlmscaleError(
            f"{shown}: is no metalink ({error}); is this the address of RELEASE.metalink?"
        ) from None
    if _name(root) != "metalink":
        raise PlmscaleError(f"{shown}: is no metalink but <{_name(root)}>")
    release = next((_text(node) for node in root if _name(node) == "version"), "")
    if not release:
        raise PlmscaleError(f"{shown}: names no release (<version>)")
    files = {}
    for node in root.iter():
        if _name(node) == "file" and (found := _published(node)):
            files[node.get("name", "")] = found
    return Metalink(release, files)


def published(
    metalink: Metalink, file: str, release: str, shown: str, url: str = ""
) -> PublishedFile:
    """Return what `metalink` says of `file`; `shown` is the metalink's own address.

    Raises PlmscaleError where it is of another release than `release`, or does not have the file.
    """
    if metalink.release != release:
        raise PlmscaleError(
            f"{shown}: {url or file} is now of release {metalink.release}, the study names "
            f"{release}: write release: {metalink.release} in the study (the corpus is then "
            f"another one), or give path: of a copy of {release}"
        )
    if file not in metalink.files:
        raise PlmscaleError(f"{shown}: has no file {file}{suggest(file, sorted(metalink.files))}")
    return metalink.files[file]


def _name(node: ET.Element) -> str:
    return node.tag.rsplit("}", 1)[-1]


def _text(node: ET.Element) -> str:
    return (node.text or "").strip()


def _published(node: ET.Element) -> PublishedFile | None:
    """Return what a <file> says, None without a size and an MD5."""
    size = next((_text(n) for n in node.iter() if _name(n) == "size"), "")
    md5 = next(_md5s(node), "")
    if not size.isdigit() or not md5:
        return None
    urls = tuple(_text(n) for n in node.iter() if _name(n) == "url" and _text(n))
    return PublishedFile(int(size), md5, urls)


def _md5s(node: ET.Element) -> Iterator[str]:
    for found in node.iter():
        text, kind = _text(found).lower(), found.get("type", "").lower()
        if _name(found) == "hash" and kind == "md5" and re.fullmatch(r"[0-9a-f]{32}", text):
            yield text
