"""What the commands do: read, compute, write, and a summary at the end."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from plmscale.corpus.alphabet import decode
from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, finite
from plmscale.inference import embedding_files, outputs
from plmscale.inference.batches import check_batch_tokens
from plmscale.inference.embed import Embedder, check_layer, embed
from plmscale.inference.generate import Prompt, generate
from plmscale.inference.models import Loaded, open_model
from plmscale.inference.progress import Pass, passing
from plmscale.inference.records import FastaReader, tokens_of
from plmscale.inference.sampling import Sampling
from plmscale.inference.score import Scoring, score

_SCORES = pa.schema(
    [
        ("id", pa.string()),
        ("length", pa.int64()),
        ("tokens", pa.int64()),
        ("nll", pa.float64()),
        ("perplexity", pa.float64()),
        ("method", pa.string()),
    ]
)


def run_score(args: argparse.Namespace) -> None:
    """Score a FASTA file."""
    _check_json(args)
    if args.masks < 0:
        raise PlmscaleError(f"--masks {args.masks}: 1 or more sets, or 0 for one residue at a time")
    with _records(args, "score") as (loaded, reader, progress):
        if args.masks and loaded.causal:
            raise PlmscaleError("--masks is for mlm; as clm there is nothing to mask")
        batch_tokens = check_batch_tokens(args.batch_tokens, loaded.device.type == "cuda")
        window = _window(args, loaded)
        how = Scoring(batch_tokens, args.masks, not args.without_eos, window, args.seed)
        total, tokens = 0.0, 0
        longer = _Longer(loaded, window, progress)
        with outputs.table_writer(args.out, _SCORES) as add:
            for found in score(loaded, reader, how):
                add({name: getattr(found, name) for name in _SCORES.names})
                longer.see(found.id, found.length)
                total, tokens = total + found.nll, tokens + found.tokens
                progress.done(1, found.length)
            _not_empty(reader, progress)
        mean = total / tokens
        _summary(args, loaded, reader, progress, {
            "tokens": tokens, "nll": total, "nll_per_token": mean,
            "perplexity": float(np.exp(mean)), "longer_than_context": longer.count,
        }, f"{mean:.4f} nats a token, perplexity {np.exp(mean):.2f}")  # fmt: skip


def run_embed(args: argparse.Namespace) -> None:
    """Embed a FASTA file."""
    kind = embedding_files.format_of(args.out, args.format, args.per_residue)
    if kind == "npy" and args.per_residue:
        outputs.check_new_folder(args.out)
    with _records(args, "embed") as (loaded, reader, progress):
        arch = loaded.model.arch
        layer = check_layer(args.layer, arch.n_layers)
        batch_tokens = check_batch_tokens(args.batch_tokens, loaded.device.type == "cuda")
        window = _window(args, loaded)
        how = Embedder(batch_tokens, args.per_residue, layer, window)
        longer = _Longer(loaded, window, progress)
        with embedding_files.embedding_writer(
            args.out, kind, args.per_residue, arch.d_model
        ) as add:
            for found in embed(loaded, reader, how):
                add(found.id, found.length, found.values)
                longer.see(found.id, found.length)
                progress.done(1, found.length)
            _not_empty(reader, progress)
        _summary(args, loaded, reader, progress, {
            "width": arch.d_model, "layer": layer, "per_residue": args.per_residue,
            "format": kind, "longer_than_context": longer.count,
        }, f"{arch.d_model} numbers a {'residue' if args.per_residue else 'protein'}")  # fmt: skip


def run_generate(args: argparse.Namespace) -> None:
    """Generate sequences as FASTA."""
    _check_json(args)
    for name in ("n", "batch"):
        if getattr(args, name) < 1:
            raise PlmscaleError(f"--{name} {getattr(args, name)}: at least 1")
    prompt, fault = tokens_of(args.prompt.encode())
    if fault or args.prompt.endswith("*"):
        fault = fault or "ends with a stop, so nothing can follow"
        raise PlmscaleError(f"--prompt {args.prompt[:40]}: {fault}; correct it")
    loaded = open_model(args.run_dir, args.device, args.dtype, use="clm")
    longest = max(1, loaded.context - 2) if args.max_length is None else args.max_length
    how = Sampling(
        longest, args.min_length, args.temperature, args.top_k, args.top_p,
        args.no_repeat, args.repetition_window, args.standard_only,
    )  # fmt: skip
    with passing("generate", args.prompts or "") as progress, ExitStack() as stack:
        if longest + 1 > loaded.context:
            progress.say(
                f"--max-length {longest}: beyond the {loaded.context} tokens of context that the "
                "model was trained on, where nobody knows what it does"
            )
        reader = FastaReader(args.prompts, advance=progress.advance) if args.prompts else None
        write = stack.enter_context(atomic_write(args.out)) if args.out else sys.stdout
        total = 0.0
        starts = _prompts(reader, loaded.run_id, prompt, args.n)
        for found in generate(loaded, starts, how, args.seed, args.batch):
            residues = len(found.tokens)
            header = (
                f"{found.id} length={residues} loglik={found.loglik:.4f} "
                f"perplexity={found.perplexity:.3f} end={'eos' if found.ended else 'length'}"
            )
            write.write(outputs.fasta_text(header, decode(found.tokens)))
            total += found.loglik * residues
            progress.done(1, residues)
        stack.close()
        mean = total / progress.residues
        _summary(args, loaded, reader, progress, {
            "loglik": mean, "perplexity": float(np.exp(-mean)), "seed": args.seed,
        }, f"{mean:.4f} nats a residue, perplexity {np.exp(-mean):.2f}")  # fmt: skip


def _prompts(reader: FastaReader | None, name: str, prompt: np.ndarray, n: int) -> Iterator[Prompt]:
    """Yield `n` of each prompt, numbered from 1."""
    starts = ((r.id, r.tokens) for r in reader) if reader else [(name, prompt)]
    for start, tokens in starts:
        for i in range(1, n + 1):
            yield Prompt(f"{start}_{i}", tokens)


@contextmanager
def _records(args: argparse.Namespace, name: str) -> Iterator[tuple[Loaded, FastaReader, Pass]]:
    """Yield the model, the reader of the FASTA file and the progress of the pass over it."""
    loaded = open_model(args.run_dir, args.device, args.dtype, args.use)
    with passing(name, args.fasta) as progress:
        reader = FastaReader(
            args.fasta, args.headers, args.on_error == "skip", progress.say, progress.advance
        )
        yield loaded, reader, progress


class _Longer:
    """Counts proteins beyond the model's context and tells the first of them."""

    def __init__(self, loaded: Loaded, window: int, progress: Pass) -> None:
        self.count, self._say = 0, progress.say
        self._fits = loaded.context - (1 if loaded.causal else 2)
        self._how = (
            f"in windows of {window} tokens that overlap by half" if window else "as a whole"
        )

    def see(self, name: str, length: int) -> None:
        if length <= self._fits:
            return
        self.count += 1
        if self.count == 1:
            self._say(
                f"{name} has {length} residues, more than the {self._fits} that the model saw at "
                f"once in training; such proteins are run {self._how} (--window)"
            )


def _window(args: argparse.Namespace, loaded: Loaded) -> int:
    window = loaded.context if args.window is None else args.window
    if window < 0 or window == 1:
        raise PlmscaleError(f"--window {window}: 2 tokens or more, or 0 to run proteins as a whole")
    return window


def _check_json(args: argparse.Namespace) -> None:
    if args.json and args.out is None:
        raise PlmscaleError("--json prints a summary; name a file for the result with --out")


def _not_empty(reader: FastaReader, progress: Pass) -> None:
    if not progress.records:
        raise PlmscaleError(
            f"{reader.name}: no record is left, all {reader.skipped:,} were left out"
        )


def _summary(
    args: argparse.Namespace,
    loaded: Loaded,
    reader: FastaReader | None,
    progress: Pass,
    more: dict[str, Any],
    text: str,
) -> None:
    """Print what was done: JSON on standard output, or a line on standard error."""
    if args.json:
        found = {
            "run_id": loaded.run_id, "used_as": loaded.use, "device": loaded.device.type,
            "dtype": loaded.dtype, "records": progress.records, "residues": progress.residues,
            "skipped": reader.skipped if reader else 0, "seconds": round(progress.seconds, 3),
            "residues_per_second": round(progress.rate, 1), "out": str(args.out), **more,
        }  # fmt: skip
        print(json.dumps(finite(found), indent=2, sort_keys=True, allow_nan=False))
        return
    skipped = f", {reader.skipped:,} left out" if reader and reader.skipped else ""
    where = f"; written: {args.out}" if args.out else ""
    progress.say(
        f"{progress.records:,} records{skipped}, {progress.residues:,} residues in "
        f"{progress.seconds:.1f} s ({progress.rate:,.0f} residues/s), {text}{where}"
    )
