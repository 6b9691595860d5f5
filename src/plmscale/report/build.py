"""Gather the report's content and render it into one HTML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from plmscale.errors import PlmscaleError
from plmscale.figures import data, findview, lawview
from plmscale.figures.speed import PARTS, time_table
from plmscale.files import read_json
from plmscale.laws.fittext import grouped
from plmscale.report import downstream, holds, missing, tables, verdicts, words, worth
from plmscale.report.missing import Missing
from plmscale.report.parts import Figure, Figures, Table, raised

# Up to so many comparisons of two runs stand in the text; more are folded away behind their laws.
_FEW = 4


@dataclass(frozen=True)
class Sources:
    """Where the report reads from. Only `runs` and `laws` must exist.

    `missing` (missing.json) makes it the report of an unfinished study, whose table of runs may be
    empty; `part` says which part of the study it is of.
    """

    runs: Path
    laws: Path
    findings: Path | None = None
    figures: Path | None = None
    corpus: Path | None = None
    study: Path | None = None
    metrics: Path | None = None
    holdout: Path | None = None
    sensitivity: Path | None = None
    audit: Path | None = None
    reproduction: Path | None = None
    points: Path | None = None
    missing: Path | None = None
    part: str = ""
    downstream: Path | None = None


@dataclass
class Content:
    """Everything the template shows; text only, escaped by the template."""

    title: str
    description: str
    question: str
    scope: str
    answers: list[tuple[str, str]]
    side: list[str]
    pairs: list[str]
    caveats: list[str]
    warnings: list[str]
    excluded: list[dict[str, str]]
    law_rows: list[list[str]]
    conventions: Table
    groups: list[tuple[str, list[Figure]]]
    run_columns: tuple
    run_rows: list[list[tables.Cell]]
    corpus_rows: list[list[str]]
    paper: list[str]
    provenance: list[tuple[str, str]]
    times: list[tuple[str, str]]
    time_sentence: str
    study_text: str = ""
    tests: list[Table] = field(default_factory=list)
    verdicts: list[Table] = field(default_factory=list)
    verdict_sentences: list[str] = field(default_factory=list)
    audit: Table | None = None
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    part: str = ""
    missing: Missing | None = None
    lost: str = ""
    downstream: downstream.Section | None = None


def gather(sources: Sources) -> Content:
    """Read the sources and make every sentence and table of the report.

    Raises PlmscaleError when a named file is missing or cannot be read.
    """
    lacks = read_json(sources.missing) if sources.missing else {}
    # With nothing finished yet there is a table, but no row in it.
    table = sources.runs if not lacks or lacks["counts"].keys() & missing.ENDED else None
    inputs = data.load(table, None, sources.laws, sources.findings, None, sources.metrics)
    runs, laws, findings = inputs.runs, inputs.laws, inputs.findings
    manifest_path = sources.corpus / "manifest.json" if sources.corpus else None
    manifest = read_json(manifest_path) if manifest_path and manifest_path.is_file() else {}
    study, study_text = _study(sources.study)
    budgets = data.isoflop_runs(runs)["budget"].dropna().tolist()
    times = time_table(inputs.metrics)
    reproduction = read_json(sources.reproduction) if sources.reproduction else {}
    figures = Figures(sources.figures, lambda name: missing.caption_note(lacks, name))
    tests = _tests(sources, figures)
    audit = _read_audit(sources.audit)
    excluded = lawview.excluded(laws)
    pairs = _pairs(findings)
    side = [
        *worth.repetition_sentences(laws.get("repetition")),
        *worth.transfer_sentences(laws.get("transfer")),
    ]
    if len(pairs) <= _FEW:
        # A study with a pair or two says what was seen; the laws of many pairs say it better.
        side, pairs = pairs, []
    scope = f"On this corpus, {words.budgets_phrase(budgets)}:"
    seeds = sorted({int(seed) for seed in runs["seed"].dropna()})
    name = str(study.get("study") or runs["study"].iloc[0] or "study")
    failed = _failed(inputs.metrics)
    return Content(
        title=name,
        description=str(study.get("description") or ""),
        question="How large should a protein language model be, and on how many tokens should it "
        "be trained, for a given amount of compute?",
        scope=scope,
        answers=_answers(laws) if len(runs) else [("No run has ended yet.", "")],
        side=side,
        pairs=pairs,
        caveats=[
            *_caveats(laws, findings, runs, excluded, seeds),
            *filter(None, [verdicts.stream_sentence(audit, laws)]),
        ],
        warnings=_warnings(laws, findings, pairs),
        excluded=verdicts.with_reasons(excluded, audit),
        law_rows=tables.law_rows(laws),
        conventions=Table(
            "conventions",
            "Compute counted both ways",
            [],
            tables.CONVENTION_COLUMNS,
            tables.convention_rows(laws),
        ),
        groups=figures.groups({t.figure.name for t in tests if t.figure}),
        run_columns=tables.RUN_COLUMNS,
        run_rows=tables.run_rows(runs, inputs.metrics),
        corpus_rows=tables.corpus_rows(manifest),
        paper=_paper(laws, runs),
        provenance=tables.provenance_rows(inputs.metrics, laws, manifest, seeds),
        times=tables.time_parts(times),
        time_sentence=words.time_sentence(times[list(PARTS)].sum().to_dict()),
        study_text=study_text,
        tests=tests,
        verdicts=_verdicts(reproduction),
        verdict_sentences=[verdicts.verdict_sentence(reproduction)] if reproduction else [],
        audit=_audit_table(audit),
        failed=failed,
        part=sources.part,
        missing=missing.told(lacks) if lacks else None,
        lost=missing.lost_sentence(failed, len(runs)),
        downstream=downstream.section(sources.downstream, figures) if sources.downstream else None,
    )


def _answers(laws: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the first sentence of each answer, which is set in bold, and what follows it."""
    found, spoken = [], {}
    for objective in lawview.objectives(laws) or ["clm", "mlm"]:
        entries = lawview.methods(laws, objective)
        entry = entries.get(lawview.preferred(laws, objective) or "")
        spoken[objective] = lawview.power_law(entry, "N_opt")
        d_law = lawview.power_law(entry, "D_opt")
        lead = words.exponent_sentence(objective, spoken[objective], d_law)
        sentences = [
            words.growth_sentence(spoken[objective]),
            words.optimum_sentence(objective, entry),
            words.edges_sentence(objective, entry),
            words.agreement_sentence(objective, entries),
        ]
        found.append((lead, " ".join(s for s in sentences if s)))
    between = words.objectives_sentence(spoken.get("clm"), spoken.get("mlm"))
    return [*found, (between, "")] if between else found


def _pairs(findings: dict[str, Any]) -> list[str]:
    repeated = findview.differences(findings, "repetition")
    moved = findview.differences(findings, "transfer")
    return [*map(words.repetition_sentence, repeated), *map(words.transfer_sentence, moved)]


def _caveats(
    laws: dict[str, Any],
    findings: dict[str, Any],
    runs: pd.DataFrame,
    excluded: list[dict[str, str]],
    seeds: list[int],
) -> list[str]:
    found = [words.runs_sentence(runs["status"], len(excluded))]
    found.append(words.method_sentence(laws))
    both = [i for kind in ("repetition", "transfer") for i in findview.differences(findings, kind)]
    found.append(words.basis_sentence(both))
    if len(seeds) == 1:
        found.append(
            "Every configuration was trained with one seed, so how much a rerun would differ is "
            "known only from the scatter around the fits."
        )
    return [text for text in found if text]


def _warnings(laws: dict[str, Any], findings: dict[str, Any], pairs: list[str]) -> list[str]:
    texts = lawview.warnings(laws)
    for section in ("transfer", "repetition"):
        texts += (laws.get(section) or {}).get("warnings") or []
    if not pairs:
        # Where the comparisons are folded away, so is what they lacked.
        texts += findings.get("warnings") or []
    return grouped(list(dict.fromkeys(map(str, texts))))


def _paper(laws: dict[str, Any], runs: pd.DataFrame) -> list[str]:
    found = []
    for objective in lawview.objectives(laws):
        law = lawview.power_law(
            lawview.methods(laws, objective).get(lawview.preferred(laws, objective) or ""), "N_opt"
        )
        found.append(words.published_sentence(objective, law))
    found.append(words.distance_sentence(data.done(data.isoflop_runs(runs))))
    return [text for text in found if text]


def _tests(sources: Sources, figures: Figures) -> list[Table]:
    found = []
    if sources.holdout:
        told = read_json(sources.holdout)
        found.append(
            Table("holdout", "Does it hold?", holds.holdout_sentences(told),
                  holds.HOLDOUT_COLUMNS, holds.holdout_rows(told),
                  figures.one("holdout"))
        )  # fmt: skip
    if sources.sensitivity:
        told = read_json(sources.sensitivity)
        found.append(
            Table("choices", "How much of it is choice?", holds.choice_sentences(told),
                  holds.CHOICE_COLUMNS, holds.choice_rows(told),
                  figures.one("sensitivity"))
        )  # fmt: skip
    return found


def _verdicts(told: dict[str, Any]) -> list[Table]:
    return [
        Table(f"verdict-{i}", title, [note] if note else [],
              *verdicts.without_empty(verdicts.VERDICT_COLUMNS, rows))
        for i, (title, note, rows) in enumerate(verdicts.verdict_groups(told), 1)
    ]  # fmt: skip


def _read_audit(path: Path | None) -> pd.DataFrame | None:
    if path is None:
        return None
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise PlmscaleError(f"{path}: cannot be read as a table ({error})") from None


def _audit_table(audit: pd.DataFrame | None) -> Table | None:
    if audit is None:
        return None
    return Table("audit", "Audit of the logs", verdicts.audit_sentences(audit),
                 verdicts.AUDIT_COLUMNS, verdicts.audit_rows(audit))  # fmt: skip


def _failed(metrics: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [
        (item["run_id"], str(item.get("status")), str(item.get("status_detail") or ""))
        for item in metrics
        if item.get("status") not in (None, "", "done")
    ]


def _study(path: Path | None) -> tuple[dict[str, Any], str]:
    if path is None:
        return {}, ""
    try:
        text = path.read_text(encoding="utf-8")
        loaded = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlmscaleError(f"{path}: cannot be read as a study ({error})") from None
    return (loaded if isinstance(loaded, dict) else {}), text


def render(content: Content) -> str:
    """Return the report's HTML: everything inside, nothing to load."""
    folder = resources.files("plmscale.report") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["raised"] = raised
    return environment.get_template("report.html.j2").render(c=content)
