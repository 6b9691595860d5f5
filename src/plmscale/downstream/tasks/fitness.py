"""Zero-shot fitness: does a model rank the variants of a protein as the experiment does?

ProteinGym's substitution assays (Notin et al. 2023). Methods
    zero-shot      mlm: marginals (or pseudo-likelihood); clm: likelihood of the sequence
                   (plmscale.downstream.fitness.scores)
    baseline:random, baseline:mutations, baseline:frequency, baseline:hydrophobicity,
    baseline:substitution
                   from the mutated letters alone (plmscale.downstream.fitness.baselines)

A prediction is a row a variant. What cannot be scored (a stop codon, a mutation that does not fit
the wild type, a letter that is none of the 20) has no prediction and says why in `skipped`; an
assay whose variants do not fit is skipped whole, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from plmscale.downstream.base import Data, Example, Metric, Predictions, Task
from plmscale.downstream.data.found import draw
from plmscale.downstream.fitness import summary, variants
from plmscale.downstream.fitness.baselines import BASELINES
from plmscale.errors import PlmscaleError
from plmscale.fields import Strict

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter

# What `variants: null` stands for; 0 is all of them.
_SIZED = {"small": 300, "full": 0}


class Options(Strict):
    """Options of the task.

    mlm: how a masked model scores. masks: sets of residues masked at once in pseudo-likelihood, 0
    for one residue at a time. both_directions: causal models that were trained on proteins read
    from both ends (ProGen2) score the mean of both; others read forwards. window: residues of a
    window, less where the model's context is shorter, 0 for the context alone; ProteinGym's are 1024
    tokens with begin and end. variants: at most so many of an assay, drawn at random, 0 for all;
    null: 300 of the small source, all of the full one. Numbers of a part are not ProteinGym's.
    batch_tokens: tokens a network takes at a time, null by device. replicates: bootstrap draws.
    """

    mlm: Literal["masked-marginals", "wt-marginals", "pseudo-likelihood"] = "masked-marginals"
    masks: int = Field(0, ge=0)
    both_directions: bool = True
    window: int = Field(1022, ge=0)
    variants: int | None = Field(None, ge=0)
    batch_tokens: int | None = Field(None, ge=1)
    replicates: int = Field(10_000, ge=2)

    def sized(self, source: str) -> Options:
        """Return the options with `variants` as the data's source has it, if none was given."""
        if self.variants is not None:
            return self
        return self.model_copy(update={"variants": _SIZED.get(source, 0)})


def predict(
    data: Data,
    model: Adapter | None,
    method: str,
    seed: int,
    options: Options,
    store: object = None,
) -> Predictions:
    """Return the score of each variant.

    `data` has a split `test` with an example a variant: `sequence` the mutated one, `target` the
    measured value (higher is fitter), `group` the assay, `extra` mutant, target_seq, uniprot,
    selection and DMS_score_bin. Deterministic but for baseline:random, which follows `seed`.

    Raises PlmscaleError for a method the task does not have, and where no assay could be scored.
    """
    started, options = time.monotonic(), options.sized(data.source)
    notes: list[str] = []
    examples = data.split("test")
    if options.variants:
        # By a seed of its own: all models and seeds score the same variants.
        part = draw(examples, options.variants, 0)
        if len(part) < len(examples):
            notes.append(f"{len(part):,} of {len(examples):,} variants were drawn for scoring")
        examples = part
    scorer = _Scorer(model, method, seed, options, notes)
    faults: list[str] = []
    tables = [_assay(assay, members, scorer, notes, faults) for assay, members in _assays(examples)]
    if len(faults) == len(tables):
        raise PlmscaleError(faults[0])
    about = {
        "task": TASK.name,
        "method": method,
        "seed": seed,
        "model": model.info.to_dict() if model else None,
        "data": {"source": data.source, "sha256": data.sha256, "dropped": dict(data.dropped)},
        "options": options.model_dump(mode="json"),
        "scoring": scorer.told,
        "versions": {name: version(name) for name in ("numpy", "torch")},
        "seconds": time.monotonic() - started,
        "notes": [*data.notes, *notes, *faults],
    }
    return Predictions(pa.concat_tables(tables), about)


def score(predictions: Predictions, options: Options) -> Iterable[Metric]:
    """Return ProteinGym's metrics of each assay and their averages (fitness.summary)."""
    return summary.metrics(predictions, _changed(predictions), options.replicates)


def differences(first: Predictions, second: Predictions, options: Options) -> Iterable[Metric]:
    """Return first minus second, paired by assay and by variant (fitness.summary)."""
    return summary.differences(first, second, _changed(first), options.replicates)


def _changed(predictions: Predictions) -> str:
    """Say which options that decide the scores are not the default."""
    used, default = predictions.about.get("options", {}), Options(variants=0).model_dump()
    told = ("mlm", "masks", "both_directions", "window", "variants")
    return ", ".join(
        f"{key}={used[key]}" for key in told if used.get(key, default[key]) != default[key]
    )


class _Scorer:
    """One way to score; `told` says which, for the definition of the metrics."""

    def __init__(
        self, model: Adapter | None, method: str, seed: int, options: Options, notes: list[str]
    ) -> None:
        self.model, self.seed, self.options, self.notes = model, seed, options, notes
        self.baseline = method.removeprefix("baseline:") if method != "zero-shot" else ""
        if self.baseline and self.baseline not in BASELINES:
            raise PlmscaleError(
                f"fitness: no method {method!r}; there are zero-shot and, as baseline:NAME, "
                f"{', '.join(BASELINES)}"
            )
        if not self.baseline and model is None:
            raise PlmscaleError("fitness: zero-shot needs a model")
        self.told = self._tell()

    def _tell(self) -> str:
        if self.model is None or self.baseline:
            return self.baseline
        window = f", window {self.options.window}" if self.options.window else ""
        if not self.model.causal:
            sets = f" in {self.options.masks} sets" if self.options.masks else ""
            return self.options.mlm + (sets if self._by_likelihood() else "") + window
        ways = "both directions" if self._both() else "forwards"
        return f"sequence likelihood, {ways}, end not counted{window}"

    def _both(self) -> bool:
        return bool(self.model and self.model.reversible and self.options.both_directions)

    def _by_likelihood(self) -> bool:
        return bool(self.model) and (
            self.model.causal or self.options.mlm == "pseudo-likelihood"  # type: ignore[union-attr]
        )

    def __call__(self, assay: str, wild: str, chosen: Sequence[variants.Variant]) -> np.ndarray:
        """Return the scores of variants that fit the wild type, float64 (n,)."""
        if self.model is None or self.baseline:
            return BASELINES[self.baseline](wild, chosen, self.seed)
        from plmscale.downstream.fitness import scores

        how = self.options
        if not self._by_likelihood():
            kind: Any = how.mlm.removesuffix("-marginals")
            return scores.marginals(self.model, wild, chosen, kind, how.window, how.batch_tokens)
        found, outside = scores.likelihood(
            self.model, wild, chosen, how.window, self._both(), how.masks, how.batch_tokens
        )
        if outside:
            self.notes.append(
                f"{assay}: {outside:,} variants have mutations outside of their window, not seen"
            )
        return found


def _assays(examples: Sequence[Example]) -> Iterator[tuple[str, list[Example]]]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    yield from groups.items()


def _assay(
    assay: str, members: list[Example], scorer: _Scorer, notes: list[str], faults: list[str]
) -> pa.Table:
    """Return the rows of one assay; what is wrong with the whole of it goes into `faults`."""
    wilds = {example.extra.get("target_seq", "") for example in members}
    wild = wilds.pop() if len(wilds) == 1 else ""
    read = [variants.read(wild, e.extra.get("mutant"), e.sequence) for e in members]
    mutations = [len(v.mutations) for v in read]
    why = summary.UNFIT
    try:
        if not wild:
            raise PlmscaleError(f"assay {assay}: no wild-type sequence, or several of them")
        for reason, count in sorted(variants.check_assay(assay, read).items()):
            notes.append(f"{assay}: {count:,} variants not scored: {reason}")
        why = summary.FAILED
        found = iter(scorer(assay, wild, [v for v in read if not v.skipped]).tolist())
    except PlmscaleError as error:
        faults.append(str(error))
        skipped = [v.skipped or why if why == summary.FAILED else why for v in read]
        return _rows(members, [None] * len(members), skipped, mutations)
    values = [None if v.skipped else next(found) for v in read]
    return _rows(members, values, [v.skipped for v in read], mutations)


def _rows(
    members: Sequence[Example],
    values: Sequence[float | None],
    skipped: Sequence[str],
    mutations: Sequence[int],
) -> pa.Table:
    extra = [example.extra for example in members]
    return pa.table(
        {
            "id": pa.array([example.id for example in members], pa.string()),
            "split": pa.array([example.split for example in members], pa.string()),
            "group": pa.array([example.group for example in members], pa.string()),
            "target": pa.array([example.target for example in members], pa.float64()),
            "prediction": pa.array(values, pa.float64()),
            "skipped": pa.array(skipped, pa.string()),
            "mutations": pa.array(mutations, pa.int32()),
            "label": pa.array([e.get("DMS_score_bin") for e in extra], pa.int32()),
            "protein": pa.array([e.get("uniprot") or "" for e in extra], pa.string()),
            "selection": pa.array([e.get("selection") or "" for e in extra], pa.string()),
        }
    )


TASK = Task(
    name="fitness",
    title="Zero-shot fitness",
    methods=("zero-shot",),
    kinds=("clm", "mlm"),
    baselines=tuple(BASELINES),
    options=Options,
    predict=predict,
    score=score,
    differences=differences,
)
