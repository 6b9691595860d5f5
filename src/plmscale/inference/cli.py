"""`plmscale score`, `plmscale embed` and `plmscale generate`. Torch is imported when they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_subcommands(commands: Any) -> None:
    """Add the commands that use a trained model; each sets `run`, a function of the arguments."""
    _add_score(commands)
    _add_embed(commands)
    _add_generate(commands)


def _add_score(commands: Any) -> None:
    score = commands.add_parser("score", help="log-likelihood and perplexity of proteins")
    _run_options(score)
    _fasta_options(score)
    score.add_argument("--out", type=Path, metavar="FILE",
                       help=".tsv, .csv or .parquet; TSV on standard output by default")  # fmt: skip
    score.add_argument("--without-eos", action="store_true",
                       help="clm: do not count the end of the protein as a token")  # fmt: skip
    score.add_argument("--masks", type=int, default=0, metavar="K",
                       help="mlm: mask K random disjoint sets of residues, one set at a time, "
                       "instead of one residue at a time (exact)")  # fmt: skip
    score.add_argument("--seed", type=int, default=0, help="of the sets of --masks (0)")
    score.set_defaults(run=_score)


def _add_embed(commands: Any) -> None:
    embed = commands.add_parser("embed", help="hidden states of proteins or their residues")
    _run_options(embed)
    _fasta_options(embed)
    embed.add_argument("--out", type=Path, required=True, metavar="FILE_OR_DIR",
                       help=".parquet or .npy; a folder for --per-residue --format npy")  # fmt: skip
    embed.add_argument("--per-residue", action="store_true", help="one vector a residue")
    embed.add_argument("--layer", type=int, default=-1, metavar="L",
                       help="0: token embeddings, i: after block i, -1: after the final norm (-1)")  # fmt: skip
    embed.add_argument("--format", choices=("parquet", "npy"), help="by the suffix of --out")
    embed.set_defaults(run=_embed)


def _add_generate(commands: Any) -> None:
    new = commands.add_parser("generate", help="new proteins from a clm or mixed run")
    _run_options(new)
    new.add_argument("--n", type=int, default=1, metavar="N",
                     help="how many sequences, of each prompt (1)")  # fmt: skip
    new.add_argument("--out", type=Path, metavar="FILE",
                     help="FASTA; standard output by default")  # fmt: skip
    start = new.add_mutually_exclusive_group()
    start.add_argument("--prompt", default="", metavar="SEQ", help="what each sequence starts with")
    start.add_argument("--prompts", metavar="FASTA", help="a file of prompts, - for standard input")
    new.add_argument("--temperature", type=float, default=1.0, metavar="T",
                     help="logits are divided by it; 0: always the most probable token (1)")  # fmt: skip
    new.add_argument("--top-k", type=int, default=0, metavar="K",
                     help="only the K most probable tokens (0: all)")  # fmt: skip
    new.add_argument("--top-p", type=float, default=1.0, metavar="P",
                     help="only the fewest tokens that sum to P (1: all)")  # fmt: skip
    new.add_argument("--min-length", type=int, default=1, metavar="N",
                     help="residues, the prompt's included (1)")  # fmt: skip
    new.add_argument("--max-length", type=int, metavar="N",
                     help="residues, the prompt's included; what fits the model's context by default")  # fmt: skip
    new.add_argument("--no-repeat", type=int, default=0, metavar="K",
                     help="never the K-th copy of a motif in a row, as AAAA for 4 (0: allowed)")  # fmt: skip
    new.add_argument("--repetition-window", type=int, default=6, metavar="N",
                     help="--no-repeat looks at motifs of up to N residues (6)")  # fmt: skip
    new.add_argument("--standard-only", action="store_true",
                     help="only the 20 amino acids, no X, B, U, Z, O")  # fmt: skip
    new.add_argument("--seed", type=int, default=0, help="sequence i depends on (seed, i) (0)")
    new.add_argument("--batch", type=int, default=64, metavar="N",
                     help="sequences at a time; changes speed and memory only (64)")  # fmt: skip
    new.set_defaults(run=_generate)


def _run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                         help="auto: a GPU if there is one")  # fmt: skip
    command.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto",
                         help="auto: bf16 on a GPU, fp32 on a processor")  # fmt: skip
    command.add_argument("--json", action="store_true",
                         help="a summary on standard output; needs --out")  # fmt: skip


def _fasta_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("fasta", metavar="FASTA",
                         help="plain, gzip, zstd or xz; - for standard input")  # fmt: skip
    command.add_argument("--as", choices=("clm", "mlm"), dest="use",
                         help="how to use a mixed run (mlm)")  # fmt: skip
    command.add_argument("--batch-tokens", type=int, metavar="N",
                         help="tokens in a batch (65536 on a GPU, 8192 otherwise)")  # fmt: skip
    command.add_argument("--window", type=int, metavar="N",
                         help="longer proteins are run in windows of N tokens that overlap by half; "
                         "0: as a whole (the model's context)")  # fmt: skip
    command.add_argument("--on-error", choices=("stop", "skip"), default="stop",
                         help="records without a sequence or with odd letters (stop)")  # fmt: skip
    command.add_argument("--headers", action="store_true",
                         help="ids are whole header lines instead of their first word")  # fmt: skip


def _score(args: argparse.Namespace) -> None:
    from plmscale.inference import commands

    commands.run_score(args)


def _embed(args: argparse.Namespace) -> None:
    from plmscale.inference import commands

    commands.run_embed(args)


def _generate(args: argparse.Namespace) -> None:
    from plmscale.inference import commands

    commands.run_generate(args)
