"""What generated proteins stand beside: natural held-out proteins, and controls made of them.

natural and reference are disjoint draws of one held-out set. All sets are compared with the
reference, natural too: what it differs by is chance, and no generated set can be asked to be nearer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from plmscale.corpus import alphabet
from plmscale.downstream.base import Example
from plmscale.downstream.perplexity import proteins
from plmscale.errors import PlmscaleError
from plmscale.training.shards import Proteins, read_manifest

NATURAL, REFERENCE = "natural", "reference"
CONTROLS = (NATURAL, proteins.SHUFFLED, proteins.UNIGRAM)
_STREAM = 0x4E4154


def of_corpus(corpus: Path, count: int, seed: int) -> list[Example]:
    """Return at most `count` held-out proteins of a corpus in random order, each as likely.

    Their ids are SOURCE:PART:NUMBER. Empty where nothing is held out.
    """
    manifest = read_manifest(corpus)
    parts = [
        (source, part, Proteins(corpus, source, part, manifest))
        for source, entry in manifest["sources"].items()
        for part in proteins.HELD_OUT
        if entry.get(part, {}).get("sequences")
    ]
    ends = np.cumsum([len(p) for _, _, p in parts], dtype=np.int64)
    total = int(ends[-1]) if parts else 0
    rng = np.random.default_rng([_STREAM, seed])
    found = []
    for number in rng.choice(total, min(count, total), replace=False).tolist() if total else ():
        which = int(np.searchsorted(ends, number, side="right"))
        source, part, there = parts[which]
        place = number - (int(ends[which - 1]) if which else 0)
        text = alphabet.decode(there.residues(place))
        found.append(Example(f"{source}:{part}:{place}", text, part, None, source))
    return found


def of_fasta(path: Path, count: int, seed: int) -> list[Example]:
    """Return at most `count` proteins of a FASTA file, drawn by a hash, in random order."""
    drawn, _ = proteins.of_fasta(NATURAL, path, count, seed)
    order = np.random.default_rng([_STREAM, seed]).permutation(len(drawn))
    return [Example(drawn[i].id, drawn[i].sequence, NATURAL, None, NATURAL) for i in order]


def sets(
    held_out: list[Example],
    controls: int,
    letters: dict[str, float],
    seed: int,
    told: dict[str, Any],
) -> list[Example]:
    """Return `controls` natural proteins, as many shuffled and unigram ones, and the reference.

    Where there are not enough, half of the proteins are the reference. letters: frequencies of the
    unigram control. told: goes into `extra`, beside `control` (the set) and `natural` (id of the
    protein that a control was made of).
    """
    if len(held_out) < 4:
        raise PlmscaleError(
            f"generation: {len(held_out)} natural held-out proteins; at least 4 are needed to compare "
            "with; hold out more of the corpus, or give a FASTA file as option `natural`"
        )
    controls = min(controls, len(held_out) // 2)
    natural = [_as(e, NATURAL, "control", told) for e in held_out[:controls]]
    made = [
        replace(
            changed := proteins.control(example, kind, letters, seed),
            group=kind,
            extra={**told, "control": kind, "natural": changed.extra["natural"]},
        )
        for kind in (proteins.SHUFFLED, proteins.UNIGRAM)
        for example in natural
    ]
    return [*natural, *made, *(_as(e, REFERENCE, REFERENCE, told) for e in held_out[controls:])]


def _as(example: Example, control: str, split: str, told: dict[str, Any]) -> Example:
    extra = {**told, "control": control, "natural": ""}
    return replace(example, split=split, group=control, extra=extra)
