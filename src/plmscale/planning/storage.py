"""Bytes on disk that a study needs: corpus, weights, checkpoints, shared beginnings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plmscale.architecture import Architecture
from plmscale.files import read_json
from plmscale.memory.states import parameters
from plmscale.planning.simulate import Schedule
from plmscale.planning.work import Work
from plmscale.settings import Study
from plmscale.snakefile import corpus_folder

# As this project stores it: uint8 tokens, and an int64 offset a sequence.
RESIDUE_BYTES = 1
SEQUENCE_BYTES = 8
WEIGHT_BYTES = 4
"""fp32 weights of a finished run, a parameter (embeddings count here)."""
CHECKPOINT_BYTES = 12
"""fp32 weights and AdamW's two moments, a parameter."""
# The next checkpoint is whole before the one before it goes.
_CHECKPOINTS = 2


def all_parameters(recipe: Mapping[str, Any]) -> int:
    """Return the parameters of a model with embeddings."""
    return parameters(Architecture.from_dict(recipe["architecture"]))[0]


def corpus_bytes(study: Study) -> dict[str, Any]:
    """Return `bytes` of the corpus as it is stored and `known_by`: manifest, published or files.

    A corpus that is built is counted in its manifest; else sources are, by the residues that they
    publish, or by the size of their files, which is more (names, in FASTA) or less (compression).
    `bytes` is None where a source has neither; `unknown` names those.
    """
    folders = (Path(corpus_folder(study)), study.folder / "corpus")
    manifest = next((f / "manifest.json" for f in folders if (f / "manifest.json").exists()), None)
    if manifest is not None:
        parts = [
            source[part]
            for source in read_json(manifest)["sources"].values()
            for part in ("train", "valid", "test")
            if source.get(part)
        ]
        total = sum(_stored(part.get("residues", 0), part.get("sequences", 0)) for part in parts)
        return {"bytes": total, "known_by": "manifest", "unknown": []}
    total, unknown, known_by = 0, [], "published"
    for name, source in study.corpus.sources.items():
        if source.residues:
            total += _stored(source.residues, source.sequences or 0)
        elif (size := _file_bytes(source)) is not None:
            total, known_by = total + size, "files"
        else:
            unknown.append(name)
    return {"bytes": None if unknown else total, "known_by": known_by, "unknown": unknown}


def _stored(residues: int, sequences: int) -> int:
    return RESIDUE_BYTES * residues + SEQUENCE_BYTES * sequences


def _file_bytes(source: Any) -> int | None:
    total = 0
    for file in source.all_files():
        if file.size is not None:
            total += file.size
        elif file.path and Path(file.path).is_file():
            total += Path(file.path).stat().st_size
        else:
            return None
    return total


def storage(study: Study, works: Sequence[Work], schedule: Schedule) -> dict[str, Any]:
    """Return bytes by kind: at the end, and at the hour when checkpoints and the rest are most.

    Checkpoints are of the runs that train at the same time in `schedule`, two each: the next one
    is verified before the last goes. States of shared beginnings stay to the end.
    """
    corpus = corpus_bytes(study)
    lends = {w.run.trunk for w in works if w.run.trunk}
    weights = {w.name: WEIGHT_BYTES * all_parameters(w.run.recipe) for w in works}
    states = {w.name: CHECKPOINT_BYTES * all_parameters(w.run.recipe) for w in works}
    done = sum(weights[w.name] for w in works if w.sized is None)
    kept = states if study.execution.keep_checkpoints else {}
    # Hour, change of checkpoints, of weights, of shared beginnings.
    changes: list[tuple[float, int, int, int]] = []
    for place in schedule.placed:
        name = place.job.name
        trunk = states[name] if name in lends else 0
        held = _CHECKPOINTS * states[name]
        changes.append((place.start, held, 0, 0))
        changes.append((place.end, kept.get(name, 0) - held, weights[name], trunk))
    most = _peak(changes, done)
    finished = sum(weights.values())
    trunks = sum(states[name] for name in lends if name in states)
    at_end = sum(kept.values())
    base = corpus["bytes"] or 0
    return {
        "corpus": corpus,
        "weights_bytes": finished,
        "trunks_bytes": trunks,
        "checkpoints_kept_bytes": at_end,
        "checkpoints_peak_bytes": most["checkpoints"],
        "largest_checkpoint_bytes": max(states.values(), default=0),
        "peak_bytes": base + most["total"],
        "peak_hour": most["hour"],
        "end_bytes": base + finished + trunks + at_end,
    }


def _peak(changes: Iterable[tuple[float, int, int, int]], weights: int) -> dict[str, Any]:
    """Return the most of all together and its hour, and the most of checkpoints at any hour."""
    # At the same hour what ends goes before what starts: positive checkpoints come last.
    queue = sorted(changes, key=lambda change: (change[0], change[1]))
    checkpoints = trunks = 0
    most = {"total": weights, "hour": 0.0, "checkpoints": 0}
    for hour, d_checkpoints, d_weights, d_trunks in queue:
        checkpoints += d_checkpoints
        weights += d_weights
        trunks += d_trunks
        most["checkpoints"] = max(most["checkpoints"], checkpoints)
        if checkpoints + weights + trunks > most["total"]:
            most["total"], most["hour"] = checkpoints + weights + trunks, hour
    return most
