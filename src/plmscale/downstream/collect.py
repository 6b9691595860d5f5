"""Tables of a study's evaluation, from predictions that stay as they are.

metrics.csv (.parquet), a row a number:
    model, run_id, kind, origin, twin, n_params, loss, flops_6nd, flops    empty where not known
    task, method, seed, split, group, metric, definition
    value, se, ci95_low, ci95_high, n, primary, higher_is_better
    leakage       share of the test proteins that the run's corpus holds at 50 % identity or more
    leakage_any   share with any hit in it; both empty for what is no run
gains.csv, a row a paired difference: trained minus `against`, the `random twin` or the strongest of
the baselines (`baseline:NAME`) by the task's first metric:
    model, kind, task, method, seed, against, split, group, metric, definition, trained, other,
    gain, se, ci95_low, ci95_high, n, primary, higher_is_better, verdict
  verdict: better, worse, or `not resolved` where the interval spans zero or there is none.
failures.csv: task, model, method, status (failed, not applicable, not run, waiting), reason

A baseline is a row of model `baseline:NAME`. What a prediction gives is kept beside it, so that a
further model or seed scores only what is new; other definitions score all again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from plmscale.downstream import leakage, tasks
from plmscale.downstream.base import BASELINE, RANDOM, Metric, Predictions, Task
from plmscale.downstream.plan import definitions
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, fingerprint, finite, read_json, sha256_file, write_json

METRICS = [
    "model", "run_id", "kind", "origin", "twin", "n_params", "loss", "flops_6nd", "flops", "task",
    "method", "seed", "split", "group", "metric", "definition", "value", "se", "ci95_low",
    "ci95_high", "n", "primary", "higher_is_better", "leakage", "leakage_any",
]  # fmt: skip
GAINS = [
    "model", "kind", "task", "method", "seed", "against", "split", "group", "metric", "definition",
    "trained", "other", "gain", "se", "ci95_low", "ci95_high", "n", "primary", "higher_is_better",
    "verdict",
]  # fmt: skip
FAILURES = ["task", "model", "method", "status", "reason"]
Row = dict[str, Any]
_KEY = ("split", "group", "metric", "definition")


def collect(
    outcomes: Iterable[str | Path],
    out: Path,
    into: Path,
    options: Mapping[str, Mapping[str, Any]],
    leaks: Mapping[str, str | Path],
    runs_csv: str | Path | None = None,
    *,
    keep: bool = True,
    lacking: Iterable[Row] = (),
) -> dict[str, pd.DataFrame]:
    """Write metrics.csv (.parquet), gains.csv and failures.csv into `into`, and return them by name.

    outcomes: what jobs wrote (outcome.Outcome). out: below which their predictions lie. options: of each
    task. leaks: file of each task's leakage. runs_csv: the runs table. keep: whether what was scored
    may be kept below `out`. lacking: further rows of failures.
    """
    found = [read_json(path) for path in outcomes]
    metrics: list[Row] = []
    gains: list[Row] = []
    failures: list[Row] = [row for outcome in found for row in outcome["failures"]]
    failures += lacking
    leaked: dict[str, Any] = {}
    for name, path in leaks.items():
        known = read_json(path)
        leaked[name] = known["summary"]
        failures += known["failures"]
    for name in dict.fromkeys(outcome["task"] for outcome in found):
        entries = [e for o in found if o["task"] == name for e in o["predictions"]]
        if not entries:
            continue
        scorer = Scorer(name, options.get(name, {}), out, keep)
        own, bad = scorer.metrics(entries)
        metrics += _told(own, leaked.get(name, {}))
        failures += bad
        for compared in (scorer.gains(entries), scorer.over_baseline(entries, own)):
            gains += compared[0]
            failures += compared[1]
    runs = pd.read_csv(runs_csv).set_index("run_id") if runs_csv else pd.DataFrame()
    for row in metrics:
        for column in ("loss", "flops_6nd", "flops"):
            known = row["run_id"] in runs.index and not row["twin"]
            row[column] = runs.at[row["run_id"], column] if known else None
    tables = {
        "metrics": pd.DataFrame(metrics, columns=METRICS),
        "gains": pd.DataFrame(gains, columns=GAINS),
        "failures": pd.DataFrame(failures, columns=FAILURES),
    }
    for table_name, table in tables.items():
        with atomic_write(into / f"{table_name}.csv") as handle:
            table.to_csv(handle, index=False)
    with atomic_write(into / "metrics.parquet", "wb") as handle:
        tables["metrics"].to_parquet(handle, index=False)
    return tables


def prepare(outcome: Mapping[str, Any], options: Mapping[str, Any], out: Path) -> None:
    """Score what a job made and compare it with its twin, so that tables find it done.

    Jobs run side by side, the tables of all of them are made by one process. What cannot be scored
    is told there.
    """
    if entries := outcome["predictions"]:
        scorer = Scorer(outcome["task"], options, out)
        scorer.metrics(entries)
        scorer.gains(entries)


class Scorer:
    """Scores predictions of one task; what it found is kept in files beside them."""

    def __init__(self, name: str, options: Mapping[str, Any], out: Path, keep: bool = True) -> None:
        self.task: Task = tasks.task(name)
        self.keep = keep
        self._known: dict[Path, list[Row]] = {}
        self.options = self.task.options.model_validate(dict(options))
        self.out = out
        self.rules = [definitions(name), self.options.model_dump(mode="json")]

    def metrics(self, entries: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Return rows of metrics (with `sources` for leakage), and of what could not be scored."""
        rows, bad = [], []
        for entry in entries:
            path = self.out / entry["path"]
            try:
                about = Predictions.read_about(path)
                found = self._scored(path, entry)
            except (PlmscaleError, ValueError, KeyError) as error:
                bad.append(self._failure(entry, f"cannot be scored: {error}"))
                continue
            info = about["model"] or {}
            of = {
                "model": entry["model"] if info else entry["method"],
                "run_id": entry["model"].partition("@")[0] if info.get("origin") == "run" else "",
                "kind": info.get("kind", ""),
                "origin": info.get("origin", "baseline"),
                "twin": entry["twin"],
                "n_params": info.get("n_params"),
                "task": self.task.name,
                "method": entry["method"],
                "seed": entry["seed"],
                "sources": tuple(info.get("sources", ())),
            }
            rows += [{**of, **metric} for metric in found]
        return rows, bad

    def gains(self, entries: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Return rows of trained minus random twin, and of what could not be compared."""
        twins = {(e["model"], e["method"], e["seed"]): e for e in entries if e["twin"]}
        trained = [entry for entry in entries if not entry["twin"]]
        pairs = [(e, twins.get((e["model"], e["method"], e["seed"]))) for e in trained]
        return self._compared([pair for pair in pairs if pair[1]], RANDOM)

    def over_baseline(
        self, entries: Sequence[Row], metrics: Sequence[Row]
    ) -> tuple[list[Row], list[Row]]:
        """Return rows of trained minus the strongest baseline, and of what could not be compared.

        metrics: as from `metrics`. The strongest is the best in the first primary metric that a
        baseline has; ties go to the first.
        """
        known = [
            row for row in metrics
            if row["origin"] == "baseline" and row["primary"] and row["value"] is not None
            and math.isfinite(row["value"])
        ]  # fmt: skip
        if not known:
            return [], []
        shared = [row for row in known if all(row[key] == known[0][key] for key in _KEY)]
        sign = 1 if known[0]["higher_is_better"] else -1
        best = max(shared, key=lambda row: sign * row["value"])["method"]
        baseline = next(entry for entry in entries if entry["method"] == best)
        models = [e for e in entries if not (e["twin"] or e["method"].startswith(BASELINE))]
        rows, bad = self._compared([(entry, baseline) for entry in models], best)
        return rows, [{**row, "status": "not applicable"} for row in bad]

    def _compared(
        self, pairs: Iterable[tuple[Row, Row]], against: str
    ) -> tuple[list[Row], list[Row]]:
        """Return rows of the first minus the second of each pair, and of what cannot be compared."""
        rows, bad = [], []
        if self.task.differences is None:
            return rows, bad
        words = "its twin" if against == RANDOM else against
        for entry, other in pairs:
            try:
                rows += self._gain(entry, other, self.task.differences, against)
            except (PlmscaleError, ValueError, KeyError) as error:
                bad.append(self._failure(entry, f"cannot be compared with {words}: {error}"))
        return rows, bad

    def _gain(self, entry: Row, other: Row, differences: Callable, against: str) -> list[Row]:
        first, second = (self.out / e["path"] for e in (entry, other))
        kind = (Predictions.read_about(first)["model"] or {}).get("kind", "")
        what = "gains" if against == RANDOM else f"gains-{against.removeprefix(BASELINE)}"
        made = self._kept(
            first, what, [_of(first), _of(second)],
            lambda: differences(
                Predictions.read(first), Predictions.read(second), self.options
            ),
        )  # fmt: skip
        values = [
            {tuple(m[key] for key in _KEY): m["value"] for m in self._scored(path, own)}
            for path, own in ((first, entry), (second, other))
        ]
        rows = []
        for metric in made:
            key = tuple(metric[name] for name in _KEY)
            trained, than = (known.get(key) for known in values)
            if against != RANDOM and None not in (trained, metric["value"]):
                # Its own value may be of whole proteins where a model's is of crops, and a unigram's
                # perplexity has another name than a CLM's.
                than = trained - metric["value"]
            row = {
                "model": entry["model"], "kind": kind, "task": self.task.name,
                "method": entry["method"], "seed": entry["seed"], "against": against,
                "trained": trained, "other": than,
                **metric, "gain": metric["value"], "verdict": verdict(metric),
            }  # fmt: skip
            rows.append(row)
        return rows

    def _scored(self, path: Path, entry: Row) -> list[Row]:
        return self._kept(
            path, "metrics", [_of(path)],
            lambda: self.task.score(Predictions.read(path), self.options),
        )  # fmt: skip

    def _kept(
        self, path: Path, what: str, of: list[Any], compute: Callable[[], Iterable[Metric]]
    ) -> list[Row]:
        """Return rows of metrics, from the file beside the predictions where that is of these."""
        kept = path.with_suffix(f".{what}.json")
        if kept in self._known:
            # Of a baseline they are asked for again with each model.
            return self._known[kept]
        key = fingerprint([self.rules, of])
        if kept.exists() and (known := read_json(kept))["key"] == key:
            rows = known["rows"]
        else:
            rows = [_row(metric) for metric in compute()]
            if self.keep:
                write_json(kept, {"key": key, "rows": rows})
        self._known[kept] = rows
        return rows

    def _failure(self, entry: Row, reason: str) -> Row:
        names = {key: entry[key] for key in ("model", "method")}
        return {"task": self.task.name, **names, "status": "failed", "reason": reason}


def verdict(metric: Mapping[str, Any]) -> str:
    """Return whether a difference is resolved, and to which side."""
    low, high = metric["ci95_low"], metric["ci95_high"]
    if low is None or high is None or math.isnan(low) or low <= 0 <= high:
        return "not resolved"
    return "better" if (low > 0) == metric["higher_is_better"] else "worse"


def _told(rows: Iterable[Row], summaries: Mapping[str, Any]) -> list[Row]:
    """Add leakage, for trained runs of the study alone."""
    told = []
    for row in rows:
        own: dict[str, float] = {}
        if row["origin"] == "run" and not row["twin"]:
            own = leakage.of_group(summaries, row["sources"], row["group"])
        told.append({**row, "leakage": own.get("leaked"), "leakage_any": own.get("hit")})
    return told


def _row(metric: Metric) -> Row:
    row = asdict(metric)
    low, high = row.pop("ci95") or (None, None)
    return finite({**row, "value": float(row["value"]), "ci95_low": low, "ci95_high": high})


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def _of(path: Path) -> list[str]:
    """Return what predictions and their side results are, by content."""
    files = [path, *sorted(path.parent.glob(f"{path.stem}.*.parquet"))]
    stats = [(file, file.stat()) for file in files]
    return [_digest(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
