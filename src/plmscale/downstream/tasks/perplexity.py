"""Perplexity in and out of distribution: how well does a model foretell proteins it never saw?

Held-out proteins of the study's corpus, and of FASTA files, by their nearest identity to what the
model was trained on; beside them controls that are no proteins. Methods
    zero-shot          nats a residue (plmscale.downstream.scoring): one rule for all models
    baseline:unigram   how frequent each residue is in the training part of the corpus

A CLM's and an MLM's perplexity are different quantities; so are their metrics' names. An identity to
our corpus says nothing of a model that was trained on another. `about` says in `trained_on` of
`corpus`: `yes`; `no` (a random twin, a baseline); `other sources`, where a run's mix is not what
identities are to; or `unknown`. Bins of the last two are told as such, and not shown by default.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from plmscale.corpus.alphabet import STANDARD
from plmscale.corpus.stats import IDENTITY_BINS
from plmscale.downstream import identity
from plmscale.downstream.base import Data, Example, Metric, Predictions, Task
from plmscale.downstream.perplexity import proteins, summary
from plmscale.errors import PlmscaleError
from plmscale.fields import Slug, Strict
from plmscale.files import fingerprint, sha256_file
from plmscale.training.shards import read_manifest

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter

Control = Literal["shuffled", "unigram"]
_SIZED = {
    "small": {"per_bin": 16, "controls_per_bin": 4, "masks": 4},
    "full": {"per_bin": 400, "controls_per_bin": 100, "masks": 16},
}


class Options(Strict):
    """Options of the task; None takes a default by the source (small, full).

    per_bin: proteins drawn of each part of the corpus and bin of identity; of a FASTA file as many as
    of five bins. controls: what stands beside natural proteins, for controls_per_bin of them. masks:
    sets of residues that a masked model sees masked at once, 0 for one residue at a time (exact; as
    many passes as residues). fasta: further sets by name, each a FASTA file. batch_tokens: tokens a
    network takes at a time, None by device. replicates: bootstrap draws.
    """

    per_bin: int | None = Field(None, ge=1)
    controls: tuple[Control, ...] = ("shuffled", "unigram")
    controls_per_bin: int | None = Field(None, ge=1)
    masks: int | None = Field(None, ge=0)
    fasta: dict[Slug, Path] = Field(default_factory=dict)
    batch_tokens: int | None = Field(None, ge=1)
    replicates: int = Field(1000, ge=2)

    @field_validator("fasta")
    @classmethod
    def _names(cls, value: dict[str, Path]) -> dict[str, Path]:
        if taken := sorted(set(value) & set(proteins.HELD_OUT)):
            raise ValueError(f"{taken[0]!r} is a part of the corpus; choose another name")
        return value

    def sized(self, source: str) -> Options:
        """Return the options with every None replaced that depends on the source."""
        defaults = _SIZED["small" if source == "small" else "full"]
        chosen = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        return self.model_copy(update=chosen)


def data(
    corpus: str | Path | None,
    options: Options,
    source: str = "full",
    limit: int | None = None,
    seed: int = 0,
    *,
    trained_on: Sequence[str] = (),
    cache: Path | None = None,
    threads: int = 2,
) -> Data:
    """Return the proteins to score, the same for every model but for their identities.

    corpus: the study's; None for FASTA files alone, whose identities are then unknown. source:
    `small` or `full`, for the defaults. limit: at most so many of each bin. trained_on: the sources
    of the model's mix (ModelInfo.sources), all by default; if it is a part of the corpus, identities
    are searched instead of taken from the split. cache: folder for searches.

    Example.split is valid, test or the name of a FASTA file, group its source, target None; extra:
    control ('' for natural), natural (id it was made of), stratum, weight, identity (NaN without a
    hit), identity_known, letters (frequencies of the training part), corpus (key), sources.
    """
    options = options.sized(source)
    per_bin = min(options.per_bin or 1, limit or math.inf)
    drawn: list[proteins.Drawn] = []
    dropped: dict[str, int] = {}
    digests: list[object] = []
    what = None
    if corpus is not None:
        what = identity.trained(corpus, trained_on)
        drawn += proteins.held_out(Path(corpus), int(per_bin), seed)
        digests.append([what.content, what.sources])
    for name, path in options.fasta.items():
        found, left_out = proteins.of_fasta(name, path, int(per_bin) * len(IDENTITY_BINS), seed)
        drawn += found
        digests.append([name, sha256_file(path)])
        if left_out:
            dropped[f"{name}: no protein"] = left_out
    if not drawn:
        raise PlmscaleError(
            "perplexity: nothing held out to score; give a corpus with validation proteins, or files "
            "under `fasta`"
        )
    known = _identities(drawn, what, cache, threads)
    if what:
        letters = proteins.frequencies(what.folder, what.sources)
    else:
        letters = proteins.composition(protein.sequence for protein in drawn)
    shared = {
        "letters": letters,
        "corpus": read_manifest(corpus)["key"] if corpus is not None else "",
        "sources": what.sources if what else (),
    }
    natural = [_example(protein, known.get(protein.id), shared) for protein in drawn]
    made = [
        proteins.control(example, kind, letters, seed)
        for kind in options.controls
        for example in _first(natural, options.controls_per_bin or 1)
    ]
    return Data(
        task=TASK.name,
        source=source,
        examples=(*natural, *made),
        sha256=fingerprint(digests),
        dropped=dropped,
        notes=(f"at most {per_bin} proteins of each part and bin of identity",),
    )


def _identities(
    drawn: list[proteins.Drawn], what: identity.Trained | None, cache: Path | None, threads: int
) -> dict[str, float]:
    """Return identities by id, NaN without a hit; what is unknown is not there."""
    if what is None:
        return {}
    whole = identity.trained(what.folder).sources == what.sources
    known = {p.id: p.identity for p in drawn if whole and p.identity is not None}
    rest = {p.id: p.sequence for p in drawn if p.id not in known}
    if rest:
        table = identity.nearest(rest, what.folder, what.sources, cache, threads)
        known.update(zip(table["id"], table["identity"].astype(float)))
    return known


def _example(protein: proteins.Drawn, found: float | None, shared: dict[str, Any]) -> Example:
    extra = {
        "control": "",
        "natural": "",
        "stratum": protein.stratum,
        "weight": protein.weight,
        "identity": math.nan if found is None else found,
        "identity_known": found is not None,
        **shared,
    }
    return Example(protein.id, protein.sequence, protein.split, None, protein.source, extra)


def _first(natural: list[Example], count: int) -> list[Example]:
    """Return at most `count` examples of each stratum."""
    seen: dict[str, int] = {}
    chosen = []
    for example in natural:
        stratum = example.extra["stratum"]
        seen[stratum] = seen.get(stratum, 0) + 1
        if seen[stratum] <= count:
            chosen.append(example)
    return chosen


def predict(
    data: Data,
    model: Adapter | None,
    method: str,
    seed: int,
    options: Options,
    store: object = None,
) -> Predictions:
    """Return nats of every residue of the proteins and controls of `data` (see `data`).

    `prediction` is the mean over the residues of a protein, `nats` the list, `target` empty.
    Deterministic: `seed` decides the sets of masked residues alone.
    """
    started, options = time.monotonic(), options.sized(data.source)
    examples = list(data.examples)
    if method == "baseline:unigram":
        nats = [_unigram(example) for example in examples]
    elif method == "zero-shot" and model is not None:
        from plmscale.downstream.scoring import residue_nats

        how = {"masks": options.masks or 0, "batch_tokens": options.batch_tokens, "seed": seed}
        nats = residue_nats(model, [example.sequence for example in examples], **how)
    else:
        raise PlmscaleError(
            f"perplexity: no method {method!r}; there are zero-shot for a model, and baseline:unigram"
        )
    about = {
        "task": TASK.name,
        "method": method,
        "seed": seed,
        "model": model.info.to_dict() if model else None,
        "data": {"source": data.source, "sha256": data.sha256, "dropped": dict(data.dropped)},
        "corpus": _corpus(examples, model),
        "options": options.model_dump(mode="json"),
        "versions": {name: version(name) for name in ("numpy", "torch")},
        "seconds": time.monotonic() - started,
        "notes": list(data.notes),
    }
    return Predictions(_table(examples, nats), about)


def _unigram(example: Example) -> np.ndarray:
    letters = example.extra["letters"]
    # Letters other than the 20 are not counted (summary); any number stands for them.
    table = np.zeros(256, np.float32)
    for letter in STANDARD:
        table[ord(letter)] = -math.log(letters[letter])
    return table[np.frombuffer(example.sequence.encode("latin-1", "replace"), np.uint8)]


def _corpus(examples: Sequence[Example], model: Adapter | None) -> dict[str, Any]:
    """Say what identities are to, and whether the model was trained on it."""
    extra = next((e.extra for e in examples if e.extra["corpus"]), {"corpus": "", "sources": ()})
    key, sources = extra["corpus"], extra["sources"]
    if model is None or model.info.twin:
        trained = "no"
    elif not key or model.info.corpus != key:
        trained = "unknown"
    else:
        trained = "yes" if set(model.info.sources) == set(sources) else "other sources"
    return {"key": key, "sources": list(sources), "trained_on": trained}


def _table(examples: list[Example], nats: list[np.ndarray]) -> pa.Table:
    extra = [example.extra for example in examples]
    return pa.table(
        {
            "id": pa.array([example.id for example in examples], pa.string()),
            "split": pa.array([example.split for example in examples], pa.string()),
            "group": pa.array([example.group for example in examples], pa.string()),
            "target": pa.nulls(len(examples), pa.float64()),
            "prediction": pa.array([float(n.mean()) for n in nats], pa.float64()),
            "nats": pa.array(nats, pa.list_(pa.float32())),
            "sequence": pa.array([example.sequence for example in examples], pa.string()),
            "control": pa.array([e["control"] for e in extra], pa.string()),
            "natural": pa.array([e["natural"] for e in extra], pa.string()),
            "stratum": pa.array([e["stratum"] for e in extra], pa.string()),
            "weight": pa.array([e["weight"] for e in extra], pa.float64()),
            "identity": pa.array([e["identity"] for e in extra], pa.float32()),
            "identity_known": pa.array([e["identity_known"] for e in extra], pa.bool_()),
        }
    )


def score(predictions: Predictions, options: Options) -> Iterable[Metric]:
    """Return perplexities by identity, and gaps to the controls (perplexity.summary)."""
    return summary.metrics(predictions, options.replicates)


def differences(first: Predictions, second: Predictions, options: Options) -> Iterable[Metric]:
    """Return first minus second, paired by protein (perplexity.summary)."""
    return summary.differences(first, second, options.replicates)


TASK = Task(
    name="perplexity",
    title="Perplexity by identity to the training corpus",
    methods=("zero-shot",),
    kinds=("clm", "mlm"),
    baselines=("unigram",),
    options=Options,
    predict=predict,
    score=score,
    data=data,
    differences=differences,
)
