"""The verdict on one file, in codes that can be counted and in sentences that can be read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from plmscale.architecture import PAPER_SIZES
from plmscale.paper.evidence import CLOSE, EXACT, jitter
from plmscale.paper.group import Run
from plmscale.paper.logs import Log
from plmscale.paper.names import TOKENS_PER_NAMED_EPOCH, short
from plmscale.paper.size import Labels, default_rows, plan_ratio, tokens_of

DECISIONS = ("kept", "corrected", "excluded")
# More evaluations missing than this is a thinned export, fewer are gaps.
THINNED = 0.02
# A named number of epochs that is off by more is not a matter of rounding.
NAME_OFF = 1.5


@dataclass
class Finding:
    """What was found about one file; `mistakes` are codes, `why` sentences."""

    decision: str = "kept"
    mistakes: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)

    def add(self, decision: str, mistake: str, why: str) -> None:
        """Note something; the strongest decision (excluded, corrected, kept) stays."""
        self.decision = max(self.decision, decision, key=DECISIONS.index)
        if mistake and mistake not in self.mistakes:
            self.mistakes.append(mistake)
        self.why.append(why)


def judge(
    log: Log,
    run: Run | None,
    labels: Labels,
    starts: dict[tuple[str, int], float],
    finding: Finding,
) -> None:
    """Fill the finding of one file. `starts` are first losses from scratch by (objective, N)."""
    if log.problem:
        code = "not_recognised" if log.claim is None else "unreadable"
        return finding.add("excluded", code, log.problem)
    if run is None or not run.n_params:
        label = f"label {log.claim.label} names none" if log.claim.label else "no label names one"
        return finding.add("excluded", "unknown_size", f"no axis tells the model and {label}")
    _size(log, run, labels, finding)
    _numbers(log, finding)
    _points(log, run, finding)
    _place(log, run, starts, finding)
    _plan(log, run, finding)
    if log is not run.source:
        _copy(log, run, finding)
    if not finding.why:
        finding.why.append(_clean(log, run))
    return None


def _size(log: Log, run: Run, labels: Labels, finding: Finding) -> None:
    taken = labels.architecture(log.claim.label)
    shape = run.architecture
    if taken is not None and run.size not in (taken.name, log.claim.label):
        found = f"{shape.n_layers} x {shape.d_model} x {shape.d_ff}" if shape else "no known shape"
        finding.add(
            "corrected", "wrong_size",
            f"labelled {log.claim.label} (N = {taken.n_params:,}), but the FLOPs of its steps are "
            f"those of N = {run.axis_n or run.n_params:,.0f} ({found}) at {run.rows} rows a batch",
        )  # fmt: skip
    if run.axis_n is None:
        finding.add("kept", "", f"N = {run.n_params:,} {run.size_why}")
    elif log.axis == "flops" and abs(run.axis_n / run.n_params - 1) > CLOSE:
        used = [a.name for a in PAPER_SIZES.values() if abs(run.axis_n / a.n_params - 1) < EXACT]
        finding.add(
            "corrected", "wrong_flops_axis",
            f"its FLOPs axis counts N = {run.axis_n:,.0f}"
            + (f", the {used[0]} model," if used else "")
            + f" instead of {run.n_params:,}: multiplied by {run.n_params / run.axis_n:.4f}, so "
            f"that it ends at {run.flops_6nd:.4g} FLOPs and {run.tokens[-1] / 1e9:.1f} B tokens"
            + ("; Wall time is 0 throughout" if not log.wall.any() else ""),
        )  # fmt: skip
    elif log.axis == "flops" and abs(run.axis_n / run.n_params - 1) > EXACT:
        finding.add("kept", "", run.size_why)
    if log.split == "valid" and run.rows != default_rows(run.n_params):
        finding.add("kept", "other_batch", f"batches of {run.rows} rows, {run.rows_why}")
    elif log.axis == "steps":
        finding.add("kept", "", f"batches of {run.rows} rows {run.rows_why}")


def _numbers(log: Log, finding: Finding) -> None:
    """Compare unit and axis with the names."""
    if log.unit == "perplexity":
        named = "" if log.claim.unit == "perplexity" else ", though not named so"
        finding.add("corrected", "perplexity", f"values are perplexities{named}: logarithms taken")
    elif log.claim.unit == "perplexity":
        finding.add("corrected", "no_perplexity", "named perplexity, but values are losses")
    if log.axis != log.claim.axis:
        finding.add(
            "corrected", "wrong_axis", f"named an axis of {log.claim.axis}, counts {log.axis}"
        )
    if log.axis == "samples":
        finding.add("corrected", "samples_axis", "the axis counts rows of 1024 tokens")


def _points(log: Log, run: Run, finding: Finding) -> None:
    if log.split == "train":
        scatter = jitter(log.loss, log.x)
        told = "" if scatter is None else f" (scatter {scatter:.3f} nats)"
        if log.claim.split == "valid":
            finding.add(
                "corrected", "training_loss",
                f"named validation, but {len(log.x)} points at irregular steps{told} are a sample "
                "of training losses; entered as such",
            )  # fmt: skip
        elif log.claim.kind != "corpus_train":
            finding.add(
                "corrected", "training_loss",
                f"training loss where validation loss is expected: {len(log.x)} points at "
                f"irregular steps{told}; entered as such",
            )  # fmt: skip
        if not run.valid:
            finding.add("excluded", "training_loss", "no validation loss of this run is there")
        return
    if log.grid.foreign_first:
        rates = np.diff(log.wall) / np.diff(log.x)
        pause = rates[0] / np.median(rates) if np.median(rates) > 0 else 0
        finding.add(
            "corrected", "foreign_first_row",
            f"the first row lies at {log.x[0] / log.grid.unit:.3f} of the interval that all others "
            "keep, so another launch wrote it; dropped"
            + (f" (Wall time: a pause of {pause:,.0f} intervals after it)" if pause > 100 else ""),
        )  # fmt: skip
    if log.grid.skipped:
        total = log.grid.skipped + len(log.x)
        code = "thinned" if log.grid.skipped > THINNED * total else "missing_points"
        finding.add("kept", code, f"{log.grid.skipped} of {total} evaluations are missing")


def _place(log: Log, run: Run, starts: dict[tuple[str, int], float], finding: Finding) -> None:
    """Compare the folder with what lies in it."""
    claim = log.claim
    if claim.kind.startswith("corpus") and claim.corpus != run.corpus:
        finding.add(
            "corrected", "wrong_folder",
            f"in a folder of corpus {claim.corpus}, but it is the curve of {run.run_id}",
        )  # fmt: skip
    if claim.kind == "corpus_train" and log.split == "valid":
        finding.add("corrected", "wrong_folder", "validation loss in a folder of training losses")
    scratch = starts.get((run.objective, run.n_params))
    if claim.place == "ft" and not run.claims("parent"):
        finding.add(
            "corrected", "wrong_folder",
            f"in the folder of transferred runs, but it starts at {run.loss[0]:.3f} nats as runs "
            f"from scratch do ({scratch:.3f} and up) and names no parent",
        )  # fmt: skip
    if run.claims("parent") and run.valid and scratch is not None and run.loss[0] >= scratch:
        finding.add(
            "excluded", "not_transferred",
            f"named a transferred run, but it starts at {run.loss[0]:.3f} nats, not below runs "
            f"from scratch ({scratch:.3f})",
        )  # fmt: skip


def _plan(log: Log, run: Run, finding: Finding) -> None:
    ratio = plan_ratio(run)
    if run.stuck:
        finding.add(
            "excluded", "never_learned",
            f"its loss never fell: {run.loss[0]:.3f} at the first validation, {run.loss[-1]:.3f} at "
            "the last, no more than the points scatter",
        )  # fmt: skip
        return
    if run.status == "excluded" and run.valid and ratio is not None:
        finding.add(
            "excluded", "stops_short",
            f"stops at {ratio:.1%} of its plan ({run.tokens[-1] / 1e9:.1f} B tokens, "
            f"{run.flops_6nd:.3g} FLOPs), before the learning rate had decayed",
        )  # fmt: skip
        return
    claim = log.claim
    if claim.epochs and claim.budget and run.valid:
        seen = float(run.tokens[-1]) / TOKENS_PER_NAMED_EPOCH
        rounding = 0.006 if claim.epochs < 1 else 0.06
        if abs(seen - claim.epochs) > rounding and (
            max(seen / claim.epochs, claim.epochs / seen) > NAME_OFF
        ):
            finding.add(
                "kept", "wrong_epochs",
                f"named {claim.epochs:g} epochs, but it saw {run.tokens[-1] / 1e9:.1f} B tokens "
                f"({seen:.2f}), which are the named budget's",
            )  # fmt: skip


def _copy(log: Log, run: Run, finding: Finding) -> None:
    best = run.source
    if log.split != best.split:
        best = max(run.train, key=lambda x: len(x.x))
        if log is best:
            return finding.add("kept", "", f"training loss of {run.run_id}")
    if len(log.x) < len(best.x):
        return finding.add(
            "excluded", "partial_copy",
            f"{len(log.x)} of the {len(best.x)} points of {short(best.path)}",
        )  # fmt: skip
    if log.sha256 == best.sha256:
        return finding.add("excluded", "duplicate", f"byte for byte {short(best.path)}")
    if (log.axis, log.unit) == (best.axis, best.unit):
        return finding.add("excluded", "duplicate", f"value for value {short(best.path)}")
    return finding.add("kept", "", f"the run of {short(best.path)} on another axis; joined")


def _clean(log: Log, run: Run) -> str:
    text = f"{len(log.x)} points to {tokens_of(run, log)[-1] / 1e9:.4g} B tokens"
    return f"{text}; {run.size_why}, {run.rows} rows" if log.axis == "flops" else text
