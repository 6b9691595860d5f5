"""Embedding and scoring of proteins against a plain loop over padded batches of Hugging Face.

    python benchmarks/downstream_speed.py [--proteins 400] [--rounds 3] [--fasta FILE]
        [--layers 6] [--width 128] [--heads 8] [--batch 16] [--masks 4] [--threads N] [--json FILE]

Both run the same model, made here with random weights and saved as a folder in Hugging Face's
format, on the same proteins in the order of the file: `--proteins` unreviewed ones of the embedded
corpus, or of `--fasta`, without those of more than 1,022 residues.

plain   what a user writes: their tokenizer with padding, `--batch` proteins at a time in the order of
        the file, the model, a masked mean or a gather of log-softmax
ours    plmscale.downstream: an adapter of the same folder; embedding includes writing to the store
        and reading from it

embed          mean over the residues of the last layer, EsmForMaskedLM
mlm score      -log p of each residue, masked in `--masks` disjoint sets, EsmForMaskedLM
clm score      -log p of each residue given those before, LlamaForCausalLM
marginals      log p of 20 letters at each position of one protein; plain masks a position at a time
               in batches of `--batch`, so nothing is padded and no gain is to be had

The contestants take turns, so that a machine's moods hit both alike; the first turn, of a tenth of
the proteins, does not count. Each pair is checked to give the same numbers. Residues a second by the
median round; the ratio of the rounds' medians, by the wall clock and by CPU time, which other work on
the machine disturbs less.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/unit")]

from hub_example import esm2  # noqa: E402
from inference_fixtures import save_run, small_model  # noqa: E402

from plmscale.downstream import models, scoring  # noqa: E402
from plmscale.downstream.models.adapter import STANDARD  # noqa: E402
from plmscale.downstream.store import Store  # noqa: E402
from plmscale.export.folder import export_run  # noqa: E402
from plmscale.files import write_json  # noqa: E402

DEFAULT = ROOT / "resources" / "demo" / "uniprot_unreviewed.fasta.gz"
LONGEST = 1022


def read_proteins(path: Path, count: int) -> list[str]:
    """The first `count` proteins of standard letters that fit into the model."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as handle:
        records = handle.read().split(">")[1:]
    proteins = ("".join(record.split("\n")[1:]).rstrip("*") for record in records)
    fitting = [p for p in proteins if 0 < len(p) <= LONGEST and set(p) <= set(STANDARD)]
    return fitting[:count]


class Plain:
    """A loop over padded batches in the order of the file."""

    def __init__(self, folder: Path, cls: str, batch: int) -> None:
        import transformers

        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="right")
        self.model = getattr(transformers, cls).from_pretrained(folder).eval()
        self.batch = batch

    def _batches(self, proteins: list[str]):
        for i in range(0, len(proteins), self.batch):
            rows = self.tokenizer(
                proteins[i : i + self.batch], padding=True, return_tensors="pt",
                return_special_tokens_mask=True,
            )  # fmt: skip
            residues = rows.pop("special_tokens_mask") == 0
            rows.pop("token_type_ids", None)
            yield rows, residues

    def embed(self, proteins: list[str]) -> np.ndarray:
        found = []
        with torch.no_grad():
            for rows, residues in self._batches(proteins):
                states = self.model.base_model(**rows).last_hidden_state
                weight = residues[..., None].float()
                found.append((states * weight).sum(1) / weight.sum(1))
        return torch.cat(found).numpy()

    def clm(self, proteins: list[str]) -> list[np.ndarray]:
        found = []
        with torch.no_grad():
            for rows, residues in self._batches(proteins):
                logp = self.model(**rows).logits[:, :-1].log_softmax(-1)
                nats = -logp.gather(-1, rows["input_ids"][:, 1:, None])[..., 0]
                found += [n[r].numpy() for n, r in zip(nats, residues[:, 1:])]
        return found

    def mlm(self, proteins: list[str], masks: int) -> list[np.ndarray]:
        found = []
        with torch.no_grad():
            for rows, residues in self._batches(proteins):
                truth = rows["input_ids"]
                sets = torch.full(truth.shape, -1)
                for row, residue in zip(sets, residues):
                    count = int(residue.sum())
                    row[residue] = torch.from_numpy(scoring.mask_sets(count, masks))
                nats = torch.zeros(truth.shape)
                for number in range(masks):
                    hidden = sets == number
                    tokens = truth.masked_fill(hidden, self.tokenizer.mask_token_id)
                    logits = self.model(
                        input_ids=tokens, attention_mask=rows["attention_mask"]
                    ).logits
                    one = -logits.log_softmax(-1).gather(-1, truth[..., None])[..., 0]
                    nats = torch.where(hidden, one, nats)
                found += [n[r].numpy() for n, r in zip(nats, residues)]
        return found

    def marginals(self, protein: str) -> np.ndarray:
        tokens = self.tokenizer(protein, return_tensors="pt")["input_ids"]
        letters = self.tokenizer.convert_tokens_to_ids(list(STANDARD))
        found = []
        with torch.no_grad():
            for i in range(0, len(protein), self.batch):
                at = torch.arange(i, min(i + self.batch, len(protein))) + 1
                rows = tokens.repeat(len(at), 1)
                rows[torch.arange(len(at)), at] = self.tokenizer.mask_token_id
                logits = self.model(input_ids=rows).logits[torch.arange(len(at)), at]
                found.append(logits.log_softmax(-1)[:, letters])
        return torch.cat(found).numpy()


def make_models(folder: Path, layers: int, width: int, heads: int) -> tuple[Path, Path]:
    """A random EsmForMaskedLM, and a random run of plmscale exported as LlamaForCausalLM."""
    esm = esm2(
        folder / "esm", hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width,
    )  # fmt: skip
    model = small_model(
        preset="modern", n_layers=layers, d_model=width, n_heads=heads, d_ff=8 * width // 3
    )
    run = save_run(folder / "run", model, "clm", context=1024)
    write_json(run / "metrics.json", {"status": "done"})
    export_run(run, folder / "llama", verify=False)
    return esm, folder / "llama"


def same(one, other) -> bool:
    return all(np.allclose(a, b, atol=2e-3) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--proteins", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fasta", type=Path, default=DEFAULT)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--masks", type=int, default=4)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    proteins = read_proteins(args.fasta, args.proteins)
    one = sorted(proteins, key=len)[len(proteins) // 2]
    residues = sum(map(len, proteins))
    print(f"{len(proteins)} proteins, {residues:,} residues, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as name:
        esm, llama = make_models(Path(name), args.layers, args.width, args.heads)
        theirs = Plain(esm, "AutoModelForMaskedLM", args.batch)
        causal = Plain(llama, "AutoModelForCausalLM", args.batch)
        ours, ours_causal = models.open(esm), models.open(llama)
        tasks = {
            "embed": (theirs.embed, lambda p: Store().means(ours, p)),
            "mlm score": (
                lambda p: theirs.mlm(p, args.masks),
                lambda p: scoring.residue_nats(ours, p, masks=args.masks),
            ),
            "clm score": (causal.clm, lambda p: scoring.residue_nats(ours_causal, p)),
            "marginals": (
                lambda p: theirs.marginals(one),
                lambda p: scoring.marginals(ours, one, range(len(one))),
            ),
        }
        results = {}
        for task, contestants in tasks.items():
            few = proteins[: max(1, len(proteins) // 10)]
            assert same(*(run(few) for run in contestants)), f"{task}: not the same numbers"
            wall: list[list[float]] = [[], []]
            cpu: list[list[float]] = [[], []]
            for turn in range(args.rounds):
                for who in (0, 1) if turn % 2 else (1, 0):
                    start, used = time.perf_counter(), time.process_time()
                    contestants[who](proteins)
                    wall[who].append(time.perf_counter() - start)
                    cpu[who].append(time.process_time() - used)
            plain, fast = (statistics.median(times) for times in wall)
            by_cpu = statistics.median(cpu[0]) / statistics.median(cpu[1])
            done = len(one) if task == "marginals" else residues
            results[task] = {
                "plain": done / plain, "ours": done / fast, "ratio": plain / fast,
                "ratio_cpu": by_cpu, "rounds": [a / b for a, b in zip(*wall)],
                "rounds_cpu": [a / b for a, b in zip(*cpu)],
            }  # fmt: skip
            print(
                f"{task:12s} plain {done / plain:9,.0f}  ours {done / fast:9,.0f} residues/s  "
                f"ratio {plain / fast:.2f} (CPU time {by_cpu:.2f})",
                flush=True,
            )
    if args.json:
        write_json(args.json, {"args": {k: str(v) for k, v in vars(args).items()}, **results})


if __name__ == "__main__":
    main()
