"""Structures by ESMFold (Lin et al. 2023), each kept as a PDB file under the digest of its sequence.

The B-factor of every atom is its pLDDT, 0 to 100. Chunk size and the numbers' type change results a
little, so both are part of the key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.downstream.models.fetch import Place, find, weight_files, weights_digest
from plmscale.downstream.models.network import quiet
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, fingerprint, sha256_file

_VERSION = 1


class Folder:
    """ESMFold that is loaded when the first structure is missing. key: what decides structures."""

    def __init__(self, where: str, chunk_size: int, on_cpu: bool) -> None:
        """Raises PlmscaleError where it is not there, or has no GPU and may not do without."""
        import torch

        gpu = torch.cuda.is_available()
        if not gpu and not on_cpu:
            raise PlmscaleError(
                "ESMFold takes minutes a protein without a GPU and torch sees none here; use a "
                "machine with one, or set structures.on_cpu"
            )
        self.place = find(where, download=False, remote_code=False)
        if self.place.config.get("architectures") != ["EsmForProteinFolding"]:
            raise PlmscaleError(f"{self.place.label}: is not ESMFold (EsmForProteinFolding)")
        self.chunk_size, self.device = chunk_size, "cuda" if gpu else "cpu"
        self.key = fingerprint([_VERSION, _digest(self.place), chunk_size, self.device])
        self._module: Any = None

    def fold(self, sequence: str) -> str:
        """Return the structure of one protein as the text of a PDB file."""
        import torch

        module = self._module = self._module or self._load()
        with torch.no_grad():
            made = module.infer(sequence)
        made["plddt"] = made["plddt"] * 100
        keep = ("positions", "atom14_atom_exists", "residx_atom14_to_atom37", "atom37_atom_exists",
                "residx_atom37_to_atom14", "aatype", "residue_index", "plddt")  # fmt: skip
        found = {name: made[name].float() if made[name].is_floating_point() else made[name]
                 for name in keep if name in made}  # fmt: skip
        return module.output_to_pdb(found)[0]

    def _load(self) -> Any:
        from transformers import EsmForProteinFolding

        with quiet(self.place):
            module = EsmForProteinFolding.from_pretrained(
                self.place.folder, local_files_only=True, use_safetensors=True
            ).eval()
        if self.device == "cuda":
            # As its authors run it: the language model in half precision, the rest in full.
            module = module.cuda()
            module.esm = module.esm.half()
        else:
            module = module.float()
        module.trunk.set_chunk_size(self.chunk_size)
        return module


def folded(folder: Folder, sequences: Sequence[str], home: Path) -> Iterator[Path | str]:
    """Yield for each sequence the PDB file of its structure below `home`, or why there is none.

    What is in `home` already is not made again.
    """
    import torch

    for sequence in sequences:
        name = fingerprint(sequence)
        path = home / folder.key[:16] / name[:2] / f"{name}.pdb"
        if path.exists():
            yield path
            continue
        try:
            text = folder.fold(sequence)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield f"a protein of {len(sequence)} residues does not fit into the GPU's memory"
            continue
        with atomic_write(path) as handle:
            handle.write(text)
        yield path


def read(path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """Return (sequence, C-alpha coordinates float64 (n, 3) in angstrom, B-factors (n,)) of a PDB file.

    Of the first model and the first chain of it that has C-alphas; of alternative places the first.
    """
    letters, xyz, factors = [], [], []
    chain, seen = None, set()
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith("ENDMDL"):
            break
        if not line.startswith(("ATOM  ", "HETATM")) or line[12:16] != " CA ":
            continue
        residue = line[17:20].strip()
        if line.startswith("HETATM") and residue != "MSE":
            continue
        chain = chain or line[21]
        if line[21] != chain or line[22:27] in seen:
            continue
        seen.add(line[22:27])
        letters.append(_LETTERS.get(residue, "X"))
        xyz.append([float(line[i : i + 8]) for i in (30, 38, 46)])
        factors.append(float(line[60:66] or "nan"))
    if not letters:
        raise PlmscaleError(f"{path}: holds no C-alpha atom; is it a PDB file?")
    return "".join(letters), np.array(xyz), np.array(factors)


_LETTERS = {
    "ALA": "A", "ARG": "R", "ASN": "N", "ASP": "D", "CYS": "C", "GLN": "Q", "GLU": "E", "GLY": "G",
    "HIS": "H", "ILE": "I", "LEU": "L", "LYS": "K", "MET": "M", "MSE": "M", "PHE": "F", "PRO": "P",
    "SER": "S", "THR": "T", "TRP": "W", "TYR": "Y", "VAL": "V",
}  # fmt: skip


def _digest(place: Place) -> str:
    """Return what the weights are; the hub's cache names a file by its digest, that is enough."""
    files = weight_files(place)
    if place.origin == "hub" and all(path.is_symlink() for path in files):
        names = [os.path.basename(os.readlink(path)) for path in files]
        return fingerprint([sha256_file(place.folder / "config.json"), names])
    return weights_digest(place)
