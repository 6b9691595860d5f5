"""MMseqs2 databases to FASTA, by `mmseqs convert2fasta`."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from plmscale.corpus import mmseqs
from plmscale.corpus.formats import archives
from plmscale.corpus.settling import belongs_to_database
from plmscale.errors import PlmscaleError, suggest
from plmscale.files import atomic_write

_AMINO_ACIDS = 0
_KINDS = {0: "proteins", 1: "nucleotides", 2: "profiles", 5: "alignments", 6: "clusters",
          7: "hits", 12: "headers or other text"}  # fmt: skip
# Letters as numbers, which versions before 16 make of databases padded for GPUs.
_NUMBERS = re.compile(rb"[\0-\x08]")
# What stands beside databases in archives and is of no use here.
_NEEDLESS = re.compile(r"\.(tsv|lookup|source|sh|idx|idx\..*)$|_(aln|mapping|taxonomy)(\..*)?$")


def extract_databases(
    files: Sequence[Path], names: Sequence[str], member: str, out: Path, work: Path
) -> dict[str, int]:
    """Write the proteins of the database that `files` are, or of those inside archives, to `out`.

    `names` are what the files are called, in the same order: those of a database belong together
    by name. `member` names the database where there are several. Raises PlmscaleError where there
    is none, or more than one to choose from, or it holds no proteins.
    """
    if all(archives.is_tar(file) for file in files):
        fastas = [_of_archive(file, member, work / str(i)) for i, file in enumerate(files)]
    else:
        folder = work / "database"
        folder.mkdir()
        for file, name in zip(files, names, strict=True):
            (folder / name).symlink_to(file.resolve())
        where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more files"
        fastas = [_to_fasta(where, folder, member, "")]
    if len(fastas) == 1:
        # By a rename: a copy would take the room once more.
        out.parent.mkdir(parents=True, exist_ok=True)
        os.replace(fastas[0], out)
    else:
        with atomic_write(out, "wb") as target:
            for fasta in fastas:
                with fasta.open("rb") as handle:
                    shutil.copyfileobj(handle, target, 1 << 20)
                fasta.unlink()
    return {"databases": len(fastas)}


def _of_archive(file: Path, member: str, folder: Path) -> Path:
    folder.mkdir()
    inside, base = member.rpartition("/")[0], member.rpartition("/")[2]

    def wanted(name: str) -> bool:
        above, last = name.rpartition("/")[0], name.rpartition("/")[2]
        if not member:
            return not _NEEDLESS.search(last)
        return belongs_to_database(last, base) and inside in ("", above)

    seen = archives.unpack(file, wanted, folder)
    return _to_fasta(str(file), folder, base, archives.shown(seen))


def _to_fasta(where: str, folder: Path, member: str, holds: str) -> Path:
    """Turn the database in `folder` into FASTA beside it and remove the folder."""
    database = folder / _the_database(where, folder, member, holds)
    for names in ([f"{database.name}.index"], [database.name, f"{database.name}.0"]):
        if not any(database.with_name(name).exists() for name in names):
            raise PlmscaleError(f"{where}: {names[0]} of the database is missing; give it, too")
    fasta, keys = folder.with_suffix(".fasta"), folder.with_suffix(".keys.tsv")
    if not database.with_name(f"{database.name}_h.dbtype").exists():
        # Without headers the keys are the names.
        with database.with_name(f"{database.name}.index").open() as index, keys.open("w") as lines:
            for line in index:
                key = line.split("\t", 1)[0]
                lines.write(f"{key}\t{key}\n")
        headers = database.with_name(f"{database.name}_h")
        mmseqs.run("tsv2db", keys, headers, "--output-dbtype", 12)
        keys.unlink()
    try:
        mmseqs.run("convert2fasta", database, fasta)
    except PlmscaleError as error:
        raise PlmscaleError(f"{where}: the database cannot be read, damaged? {error}") from None
    with fasta.open("rb") as handle:
        if _NUMBERS.search(handle.read(1 << 20)):
            raise PlmscaleError(
                f"{where}: the database {database.name} is padded for GPUs, which MMseqs2 "
                f"{mmseqs.version()} cannot read; update it, or give the database it was made from"
            )
    shutil.rmtree(folder)
    return fasta


def _the_database(where: str, folder: Path, member: str, holds: str) -> str:
    """Return the name of the one database of proteins in `folder`, or of `member`."""
    types = {path.name.removesuffix(".dbtype"): _type(path) for path in folder.glob("*.dbtype")}
    if not types:
        advice = "; tables of key and sequence are format: tsv" if ".tsv" in holds else ""
        name = f" {member}" if member else ""
        raise PlmscaleError(f"{where}: holds no MMseqs2 database{name}{holds}{advice}")
    if member and member not in types:
        raise PlmscaleError(f"{where}: has no database {member!r}{suggest(member, sorted(types))}")
    proteins = [name for name, kind in types.items() if kind & 0xFFFF == _AMINO_ACIDS]
    if member or len(proteins) == 1:
        name = member or proteins[0]
    elif proteins:
        raise PlmscaleError(
            f"{where}: holds {len(proteins)} databases of proteins: name one as member: of the "
            f"source ({', '.join(sorted(proteins))})"
        )
    else:
        name = min(types, key=len)
    if (kind := types[name] & 0xFFFF) != _AMINO_ACIDS:
        raise PlmscaleError(
            f"{where}: the database {name} holds {_KINDS.get(kind, f'type {kind}')}, not proteins"
        )
    return name


def _type(path: Path) -> int:
    data = path.read_bytes()[:4]
    if len(data) < 4:
        raise PlmscaleError(f"{path.name}: is no type of an MMseqs2 database; fetch it again")
    return int(struct.unpack("<I", data)[0])
