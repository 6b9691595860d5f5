"""A small ESMFold with random weights, chains of known shape, and a program that stands for Foldseek."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hub_example import ESM_TOKENS, shake

_THREE = dict(zip("ACDEFGHIKLMNPQRSTVWY", [
    "ALA", "CYS", "ASP", "GLU", "PHE", "GLY", "HIS", "ILE", "LYS", "LEU", "MET", "ASN", "PRO", "GLN",
    "ARG", "SER", "THR", "VAL", "TRP", "TYR"], strict=True))  # fmt: skip


def esmfold(folder: Path) -> Path:
    """EsmForProteinFolding of two blocks."""
    from transformers import EsmConfig, EsmForProteinFolding

    trunk = {
        "num_blocks": 2, "sequence_state_dim": 32, "pairwise_state_dim": 16,
        "sequence_head_width": 8, "pairwise_head_width": 8, "position_bins": 8, "max_recycles": 1,
        "structure_module": {
            "sequence_dim": 16, "pairwise_dim": 8, "ipa_dim": 4, "resnet_dim": 8, "num_heads_ipa": 2,
            "num_qk_points": 2, "num_v_points": 2, "num_blocks": 2, "num_transition_layers": 1,
            "num_resnet_blocks": 1, "num_angles": 7,
        },
    }  # fmt: skip
    config = EsmConfig(
        vocab_size=33, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=1026, pad_token_id=1, mask_token_id=32,
        position_embedding_type="rotary", token_dropout=True, is_folding_model=True,
        vocab_list=ESM_TOKENS, esmfold_config={"trunk": trunk, "fp16_esm": False, "lddt_head_hid_dim": 16},
    )  # fmt: skip
    torch.manual_seed(8)
    model = EsmForProteinFolding(config)
    # Otherwise every atom is as sure as the next.
    shake(model.lddt_head, amount=1.0)
    model.save_pretrained(folder)
    return folder


def write_pdb(path: Path, sequence: str, xyz: np.ndarray, factor: float = 50.0) -> Path:
    """C-alpha atoms as lines of a PDB file."""
    lines = [
        f"ATOM  {i:5d}  CA  {_THREE[letter]} A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00{factor:6.2f}"
        for i, (letter, (x, y, z)) in enumerate(zip(sequence, xyz.tolist(), strict=True), 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["HEADER    test", *lines, "TER", "END", ""]))
    return path


def helix(residues: int) -> np.ndarray:
    """C-alpha of an ideal alpha helix: 100 degrees and 1.5 angstrom a residue, radius 2.3."""
    turn = np.deg2rad(100) * np.arange(residues)
    return np.column_stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(residues)])


def foldseek(folder: Path, lines: Sequence[str], code: int = 0) -> Path:
    """A program with Foldseek's command line: writes `lines` as the table, its words as called.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "foldseek"
    path.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        f"here = pathlib.Path({str(folder)!r})\n"
        "if sys.argv[1] == 'version':\n"
        "    print('10.941cd33')\n"
        "    sys.exit(0)\n"
        "names = sorted(p.name for p in pathlib.Path(sys.argv[2]).iterdir())\n"
        "(here / 'called.txt').write_text('\\n'.join([*sys.argv[1:], *names]))\n"
        f"pathlib.Path(sys.argv[4]).write_text({''.join(line + chr(10) for line in lines)!r})\n"
        f"if {code}:\n"
        "    print('Input database does not exist', file=sys.stderr)\n"
        f"sys.exit({code})\n"
    )
    path.chmod(0o755)
    return path
