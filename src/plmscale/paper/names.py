"""What file and folder names of a log folder claim. Claims only: the numbers decide."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

KINDS = {
    "gpt_valid": "isoflop",
    "mlm_valid": "isoflop",
    "mask_ratio_data": "mask_ratio",
    "transfer_valid": "transfer",
    "ur50_all1ep_training_loss": "corpus_train",
    "ur50_all1ep_valid_loss": "corpus_valid",
}
# "1ep" in a name is one pass over the mixture, whatever corpus was read: the runs so named end
# at 200.0 B tokens.
TOKENS_PER_NAMED_EPOCH = 200e9
MLM_MASK = 0.15
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([MmBb])(?:\.sh)?$")
_OBJECTIVE = {"gpt": "clm", "clm": "clm", "mlm": "mlm"}
_AXIS = {"gigaflos": "flops", "gigaflops": "flops", "tokens": "tokens", "samples": "samples",
         "steps": "steps"}  # fmt: skip
_FLOPS = r"(\d+(?:\.\d+)?e\d\d)"


@dataclass(frozen=True)
class Claim:
    """What name and place of one file say; None or "" where they say nothing.

    `label` is the size in the folder, else in the file name, which `file_label` repeats.
    `corpus` likewise, with `file_corpus`. `budget` is in FLOPs, `epochs` in passes as the authors
    count them, `parent` is (objective, FLOPs) of the run whose weights were taken over.
    `place` is ft, scratch or tokens among the transfer runs.
    """

    kind: str
    objective: str
    label: str
    file_label: str
    axis: str
    split: str
    unit: str
    corpus: str
    file_corpus: str
    stem: str
    place: str
    budget: float | None
    epochs: float | None
    mask_ratio: float | None
    parent: tuple[str, float] | None


def read_claim(path: PurePosixPath) -> Claim | None:
    """Return what `path` (relative to the log folder) claims, None for an unknown place or name.

    The first folder named as in `KINDS` decides the kind; the axis must be named ("... vs
    tokens") unless its folder fixes it.
    """
    folders = path.parts[:-1]
    top = next((i for i, part in enumerate(folders) if part in KINDS), None)
    if top is None:
        return None
    kind, below = KINDS[folders[top]], folders[top + 1 :]
    name, _, tag = path.name.removesuffix(".csv").partition("-tag-")
    stem = re.sub(r"^(?:(?:run|dep|tensorboard)[-_])+", "", name)
    last = below[-1] if below else ""
    place = last if kind == "transfer" else ""
    axis = _axis(tag, kind, place)
    objective = _objective(folders[top], below, stem)
    if not axis or not objective or (kind == "transfer" and not place):
        return None
    target, parent = _transfer(stem) if kind == "transfer" else (None, None)
    file_label, folder_label = _label(stem), _label(last.removesuffix("_flops"))
    file_corpus = _corpus(stem)
    return Claim(
        kind=kind,
        objective=objective,
        label=folder_label or file_label,
        file_label=file_label,
        axis=axis,
        split="train" if "training" in tag else "valid",
        unit="perplexity" if re.search(r"\bppl\b", tag) else "loss",
        corpus=(_corpus(last) if kind.startswith("corpus") else file_corpus) or "unimeta",
        file_corpus=file_corpus,
        stem=stem,
        place=place,
        budget=target or _number(_FLOPS, stem),
        epochs=None if parent else _epochs(stem),
        mask_ratio=_number(r"mask_(0\.\d+)", stem),
        parent=parent,
    )


def short(path: str) -> str:
    """Return a path for people: without the logger's tag, which every file repeats."""
    return re.sub(r"-tag-lm-loss-(validation|training)\S* ", " ", path)


def label_size(label: str) -> float:
    """Return the number a size label names: 1.2B is 1.2e9."""
    return float(label[:-1]) * {"M": 1e6, "B": 1e9}[label[-1]]


def _axis(tag: str, kind: str, place: str) -> str:
    if found := re.search(r" vs (\w+)", tag):
        return _AXIS.get(found[1], "")
    if tag:
        return ""
    return "steps" if kind == "mask_ratio" else "tokens" if place == "tokens" else ""


def _objective(top: str, below: tuple[str, ...], stem: str) -> str:
    if top == "mask_ratio_data":
        return "mlm"
    if top in ("gpt_valid", "mlm_valid"):
        return _OBJECTIVE[top.split("_")[0]]
    words = re.split(r"[_\d.]+", "_".join([*below, stem]))
    return next((_OBJECTIVE[word] for word in words if word in _OBJECTIVE), "")


def _label(text: str) -> str:
    """Return the first size in `text` as the tables write it: 470M, 1.2B."""
    found = [_SIZE.match(word) for word in text.split("_")]
    return next((f"{m[1]}{m[2].upper()}" for m in found if m), "")


def _corpus(text: str) -> str:
    if order := re.search(r"ur50.*(epoch|full)_shuffle", text):
        return f"ur50-{order[1]}-shuffle"
    if "ur50" in text:
        return "ur50"
    return "unimeta" if re.search(r"all[\d.]+ep", text) else ""


def _transfer(stem: str) -> tuple[float | None, tuple[str, float] | None]:
    """Return target budget and parent from the two ways the authors wrote them."""
    for pattern in (
        rf"(?:gpt|mlm){_FLOPS}_transfer_from_(gpt|mlm){_FLOPS}",
        rf".*_{_FLOPS}_(gpt|clm|mlm)_pretrain_{_FLOPS}",
    ):
        if found := re.match(pattern, stem):
            return float(found[1]), (_OBJECTIVE[found[2]], float(found[3]))
    return None, None


def _epochs(stem: str) -> float | None:
    epochs = _number(r"(?:all|_)(\d+(?:\.\d+)?)ep(?![a-z])", stem)
    tokens = _number(r"tk(\d+)b(?![a-z])", stem)
    if epochs is None and tokens is not None:
        return tokens * 1e9 / TOKENS_PER_NAMED_EPOCH
    return epochs


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    return float(found[1]) if found else None
