"""How near structures are to known ones: the highest TM-score to any of them.

By Foldseek (van Kempen et al. 2024), or without it by TM-align (tmtools) against a folder of a few
PDB files. TM-scores are normalised by the length of the generated protein; 0.5 and more is about the
same fold (Xu & Zhang 2010).
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from plmscale.downstream.generation.folding import read
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint

_COLUMNS = "query,target,qtmscore"
_FILES = (".pdb", ".ent")
# About half an hour on a CPU.
MOST_PAIRS = 30_000


def foldseek() -> str | None:
    """Return the program: $PLMSCALE_FOLDSEEK or on the PATH; None where there is none."""
    return os.environ.get("PLMSCALE_FOLDSEEK") or shutil.which("foldseek")


class Known:
    """Known structures to compare with. key: what decides scores; how: the way, in words."""

    def __init__(self, targets: Path | None) -> None:
        """targets: a database of Foldseek, or a folder of PDB files.

        Raises PlmscaleError where nothing can be compared on this machine.
        """
        if targets is None:
            raise PlmscaleError(
                "no known structures were given; set structures.targets to a database of Foldseek "
                "(foldseek databases PDB pdb tmp), or to a folder of PDB files"
            )
        if not targets.exists():
            raise PlmscaleError(f"{targets}: no such file; correct structures.targets")
        self.targets, self.program = targets, foldseek()
        files = _pdb_files(targets)
        if self.program is not None:
            self.how = f"Foldseek {_run(self.program, 'version').strip()}, TM-align mode"
        elif not targets.is_dir():
            raise PlmscaleError(
                "Foldseek is missing; install it (conda install -c bioconda foldseek) or set "
                "PLMSCALE_FOLDSEEK"
            )
        elif not files:
            raise PlmscaleError(f"{targets}: holds no PDB file (.pdb, .ent)")
        else:
            try:
                self.how = (
                    f"TM-align (tmtools {version('tmtools')}) against {len(files)} structures"
                )
            except ImportError:
                raise PlmscaleError(
                    "neither Foldseek nor tmtools is there; install one (pip install tmtools)"
                ) from None
        stats = [[p.name, p.stat().st_size] for p in files or _parts(targets)]
        self.key = fingerprint([self.how, stats])

    def best(self, structures: Sequence[Path], threads: int = 2) -> list[float]:
        """Return the highest TM-score of each structure, NaN where nothing similar was found."""
        if self.program is not None:
            return self._by_foldseek(structures, threads)
        return self._by_tmalign(structures)

    def _by_foldseek(self, structures: Sequence[Path], threads: int) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="plmscale.") as name:
            work = Path(name)
            (work / "queries").mkdir()
            for number, path in enumerate(structures):
                shutil.copyfile(path, work / "queries" / f"q{number}.pdb")
            out = work / "found.tsv"
            _run(
                str(self.program), "easy-search", work / "queries", self.targets, out, work / "tmp",
                "--alignment-type", 1, "--format-output", _COLUMNS, "--threads", threads, "-v", 1,
            )  # fmt: skip
            return parse(out.read_text() if out.exists() else "", len(structures))

    def _by_tmalign(self, structures: Sequence[Path]) -> list[float]:
        from tmtools import tm_align

        known = [(text, xyz) for text, xyz, _ in map(read, _pdb_files(self.targets))]
        if len(known) * len(structures) > MOST_PAIRS:
            raise PlmscaleError(
                f"{len(structures)} proteins against {len(known)} structures are too many without "
                f"Foldseek (at most {MOST_PAIRS:,} pairs); install it, or give fewer"
            )
        best = []
        for path in structures:
            text, xyz, _ = read(path)
            scores = [tm_align(xyz, other, text, its).tm_norm_chain1 for its, other in known]
            best.append(float(max(scores)))
        return best


def parse(text: str, count: int) -> list[float]:
    """Return the highest third column of each of `count` queries q0, q1, ... from Foldseek's table.

    A query's name may have its file's ending and its chain behind it. NaN for one without a line.
    """
    best = [math.nan] * count
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("\t")
        query = re.match(r"q(\d+)(?!\d)", fields[0])
        try:
            score = float(fields[2])
            at = int(query[1]) if query else count
            best[at] = score if math.isnan(best[at]) else max(best[at], score)
        except (IndexError, ValueError):
            raise PlmscaleError(
                f"foldseek: line {number} of its table is not {_COLUMNS}: {line[:80]!r}; is this "
                "version of Foldseek another one? (10 or later is known to work)"
            ) from None
    return best


def _pdb_files(targets: Path) -> list[Path]:
    if not targets.is_dir():
        return []
    return sorted(path for path in targets.iterdir() if path.suffix in _FILES)


def _parts(targets: Path) -> list[Path]:
    return sorted(p for p in targets.parent.glob(f"{targets.name}*") if p.is_file())


def _run(program: str, *arguments: object) -> str:
    try:
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    except OSError as error:
        raise PlmscaleError(
            f"{program}: cannot be run ({error.strerror}); set PLMSCALE_FOLDSEEK to its program"
        ) from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise PlmscaleError(
            f"foldseek {arguments[0]} failed ({done.returncode}): {' '.join(words)}"
        )
    return done.stdout
