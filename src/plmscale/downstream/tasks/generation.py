"""Generation: are proteins that a causal model makes up like natural ones?

Equal numbers at each temperature and top-p, beside natural held-out proteins and controls that are
none. Method
    zero-shot    proteins from the begin token on (plmscale.downstream.generation.sampling)

Predictions are made once. What takes MMseqs2, ESMFold or Foldseek is in side results next to them
(`side`), each made where its tools are: a tool that is installed later makes no protein again. What
could not be run is told as such among the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import Field

from plmscale.downstream import identity
from plmscale.downstream.base import Data, Metric, Predictions, Task
from plmscale.downstream.generation import proteins, searches, structures, summary
from plmscale.downstream.generation.sampling import Setting, generate
from plmscale.downstream.generation.structures import Options as StructureOptions
from plmscale.downstream.perplexity.proteins import composition, frequencies
from plmscale.errors import PlmscaleError
from plmscale.fields import Strict
from plmscale.files import fingerprint, sha256_file
from plmscale.training.shards import read_manifest

if TYPE_CHECKING:
    from plmscale.downstream.models.adapter import Adapter

# full: from nearly the most probable protein to the model's own distribution.
_SIZED: dict[str, dict[str, Any]] = {
    "small": {"temperatures": (1.0,), "top_ps": (0.9, 1.0), "per_setting": 24, "reference": 96,
              "max_length": 256, "clusters_of": 12},
    "full": {"temperatures": (0.2, 0.4, 0.6, 0.8, 1.0), "top_ps": (0.5, 0.7, 0.9, 1.0),
             "per_setting": 100, "reference": 1000, "max_length": 512, "clusters_of": 50},
}  # fmt: skip
_GENERATED = "generated"


class Options(Strict):
    """Options of the task; None takes a default by the source (small, full).

    temperatures, top_ps: the grid, every pair of them; temperature 0 is the most probable residue
    always. per_setting: proteins at each, and of each control. reference: natural proteins that all
    sets are compared with. max_length: residues of a protein at most, for controls too; less where a
    model's context is shorter. natural: FASTA file of natural proteins instead of the corpus' own
    held-out ones. batch: proteins generated at a time. batch_tokens: tokens for the likelihood.
    Only for side results and metrics: clusters_of, proteins for which clusters are counted;
    structures (generation.structures); replicates, bootstrap draws.
    """

    temperatures: tuple[Annotated[float, Field(ge=0, le=10)], ...] | None = Field(
        None, min_length=1
    )
    top_ps: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(None, min_length=1)
    per_setting: int | None = Field(None, ge=1)
    reference: int | None = Field(None, ge=2)
    max_length: int | None = Field(None, ge=1)
    natural: Path | None = None
    batch: int = Field(64, ge=1)
    batch_tokens: int | None = Field(None, ge=1)
    clusters_of: int | None = Field(None, ge=1)
    structures: StructureOptions = StructureOptions()
    replicates: int = Field(1000, ge=2)

    def sized(self, source: str) -> Options:
        """Return the options with every None replaced that depends on the source."""
        defaults = _SIZED["small" if source == "small" else "full"]
        chosen = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        return self.model_copy(update=chosen)

    def settings(self) -> list[Setting]:
        """Return the grid, each setting once; of `sized` options."""
        grid = [Setting(t, p) for t in self.temperatures or () for p in self.top_ps or ()]
        return list(dict.fromkeys(grid))


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
    """Return natural proteins and controls, the same for every model.

    corpus: the study's; None where `options.natural` is given. limit: at most so many of each set;
    generated ones too. trained_on: the sources of the model's mix, for the unigram control.

    Example.split is control or reference, group the set, target None; extra: control (the set),
    natural (id a control was made of), letters, corpus (key), sources, limit.
    """
    options = options.sized(source)
    controls = min(options.per_setting or 1, limit or options.per_setting or 1)
    wanted = controls + min(options.reference or 2, limit or options.reference or 2)
    digests: list[object] = [wanted]
    what = identity.trained(corpus, trained_on) if corpus is not None else None
    if options.natural is not None:
        held_out = proteins.of_fasta(options.natural, wanted, seed)
        digests.append(sha256_file(options.natural))
    elif corpus is not None:
        held_out = proteins.of_corpus(Path(corpus), wanted, seed)
    else:
        raise PlmscaleError(
            "generation: no natural proteins to compare with; give a corpus, or a FASTA file as "
            "option `natural`"
        )
    if what:
        letters = frequencies(what.folder, what.sources)
        digests.append([what.content, what.sources])
    else:
        letters = composition(example.sequence for example in held_out)
    told = {
        "corpus": read_manifest(corpus)["key"] if corpus is not None else "",
        "sources": what.sources if what else (),
        "limit": limit or 0,
    }
    examples = proteins.sets(held_out, controls, letters, seed, told)
    count = sum(example.group == proteins.NATURAL for example in examples)
    notes = () if count == controls else (f"only {count} natural proteins in each control",)
    return Data(TASK.name, source, tuple(examples), fingerprint(digests), notes=notes)


def predict(
    data: Data,
    model: Adapter | None,
    method: str,
    seed: int,
    options: Options,
    store: object = None,
) -> Predictions:
    """Return the generated proteins, then the controls and the reference of `data`.

    `prediction` is the mean nats a residue by the model (null for an empty protein), `target` empty.
    Columns: sequence, terminated (it ended by itself within max_length), temperature, top_p (null
    for natural ones and controls), natural, max_length. Deterministic given the seed.
    """
    if method != "zero-shot" or model is None:
        raise PlmscaleError(f"generation: no method {method!r}; there is zero-shot, for a model")
    if not model.causal:
        raise PlmscaleError(
            f"{model.info.name}: is a masked model (mlm), generation is for causal ones (clm)"
        )
    from plmscale.downstream.scoring import residue_nats

    started, options = time.monotonic(), options.sized(data.source)
    extra = data.examples[0].extra
    longest = min(options.max_length or 1, model.info.context or options.max_length or 1)
    count = min(options.per_setting or 1, extra["limit"] or options.per_setting or 1)
    rows = []
    for setting in options.settings():
        made = generate(model, setting, count, longest, seed, options.batch)
        rows += [
            (f"{setting.name} {i}", _GENERATED, setting.name, p.sequence, p.ended,
             setting.temperature, setting.top_p, "")
            for i, p in enumerate(made)
        ]  # fmt: skip
    rows += [
        (e.id, e.split, e.group, e.sequence[:longest], len(e.sequence) <= longest, None, None,
         e.extra["natural"])
        for e in data.examples
    ]  # fmt: skip
    # What the reference's nats are is never asked.
    scored = [row[3] if row[1] != proteins.REFERENCE else "" for row in rows]
    nats = iter(
        residue_nats(model, [s for s in scored if s], seed=seed, batch_tokens=options.batch_tokens)
    )
    means = [float(next(nats).mean(dtype="float64")) if s else None for s in scored]
    about = {
        "task": TASK.name,
        "method": method,
        "seed": seed,
        "model": model.info.to_dict(),
        "data": {"source": data.source, "sha256": data.sha256, "dropped": dict(data.dropped)},
        "corpus": _corpus(extra, model),
        "max_length": longest,
        "options": options.model_dump(mode="json"),
        "versions": {name: version(name) for name in ("numpy", "torch")},
        "seconds": time.monotonic() - started,
        "notes": list(data.notes),
    }
    return Predictions(_table(rows, means, longest), about)


def _table(rows: list[tuple], means: list[float | None], longest: int) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    names = ("id", "split", "group", "sequence", "terminated", "temperature", "top_p", "natural")
    types = (*[pa.string()] * 4, pa.bool_(), pa.float64(), pa.float64(), pa.string())
    made = {n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)}
    return pa.table(
        {
            **made,
            "target": pa.nulls(len(rows), pa.float64()),
            "prediction": pa.array(means, pa.float64()),
            "max_length": pa.array([longest] * len(rows), pa.int32()),
        }
    )


def _corpus(extra: Any, model: Adapter) -> dict[str, Any]:
    """Say what identities are to, and whether the model was trained on it, as for perplexity."""
    key, sources = extra["corpus"], list(extra["sources"])
    if model.info.twin:
        trained = "no"
    elif not key or model.info.corpus != key:
        trained = "unknown"
    else:
        trained = "yes" if set(model.info.sources) == set(sources) else "other sources"
    return {"key": key, "sources": sources, "trained_on": trained}


def side(
    path: str | Path,
    options: Options,
    corpus: str | Path | None = None,
    trained_on: Sequence[str] = (),
    cache: Path | None = None,
    threads: int = 2,
) -> None:
    """Bring searches and structures of the predictions in `path` up to date, next to it.

    corpus: the study's. trained_on: sources to search; by default those of the predictions. cache:
    folder that keeps structures and databases, structures once whatever model made the protein.
    Raises PlmscaleError for another corpus than that of the predictions.
    """
    predictions = Predictions.read(path)
    rows = predictions.table.select(["id", "split", "group", "sequence"]).to_pandas()
    rows = rows[rows["split"] != proteins.REFERENCE].rename(columns={"group": "set"})
    of = predictions.about["corpus"]
    folder = Path(corpus) if corpus is not None and of["key"] else None
    if folder is not None and read_manifest(folder)["key"] != of["key"]:
        raise PlmscaleError(
            f"{path}: its natural proteins are of another corpus than {folder}; make it again"
        )
    sources = trained_on or of["sources"]
    searches.update(Path(path), rows, folder, sources, cache, threads)
    source = str(predictions.about["data"]["source"])
    structures.update(Path(path), rows, options.structures.sized(source), cache, threads)


def score(predictions: Predictions, options: Options) -> Iterable[Metric]:
    """Return the metrics of each set (generation.summary), from the file and its side results."""
    return summary.metrics(predictions, _rule(predictions, options))


def differences(first: Predictions, second: Predictions, options: Options) -> Iterable[Metric]:
    """Return first minus second for each setting (generation.summary)."""
    return summary.differences(first, second, _rule(first, options))


def _rule(predictions: Predictions, options: Options) -> summary.Rule:
    sized = options.sized(str(predictions.about["data"]["source"]))
    return summary.Rule(sized.replicates, sized.clusters_of or 1)


TASK = Task(
    name="generation",
    title="Generation",
    methods=("zero-shot",),
    kinds=("clm",),
    baselines=(),
    options=Options,
    predict=predict,
    score=score,
    data=data,
    differences=differences,
    side=side,
    later=frozenset({"replicates", "clusters_of", "structures"}),
)
