"""The texts beside the weights: a model card for people, the provenance for machines."""

from __future__ import annotations

from typing import Any

import plmscale
from plmscale.export.mapping import Target
from plmscale.export.source import Source

_WORDS = {
    "clm": "causal language model (the next residue)",
    "mlm": "masked language model (residues hidden at random)",
}
_USE = {
    "clm": """\
start = tokenizer("<bos>MKT", add_special_tokens=False, return_tensors="pt")
out = model.generate(**start, do_sample=True, max_new_tokens=200)
print(tokenizer.decode(out[0], skip_special_tokens=True))""",
    "mlm": """\
inputs = tokenizer("MKT<mask>AYIAKQR", return_tensors="pt")
logits = model(**inputs).logits[inputs.input_ids == tokenizer.mask_token_id]
print(tokenizer.decode(logits.argmax(-1)))""",
}


def model_card(source: Source, target: Target, objective: str, dtype: str) -> str:
    """Return README.md: what the model is, what it was trained on, how to load it."""
    arch, metrics = source.arch, source.metrics
    task = "text-generation" if objective == "clm" else "fill-mask"
    trained = "clm and mlm at once (mixed)" if source.objective == "mixed" else source.objective
    shape = f"{arch.n_layers} layers, width {arch.d_model}, {arch.n_heads} heads"
    rows = {
        "objective": f"{trained}; exported as {objective}",
        "architecture": f"{arch.name}, preset {arch.preset}: {shape}, MLP width {arch.d_ff}",
        "N, parameters without embeddings": f"{arch.n_params:,}",
        "training tokens": _count(metrics.get("tokens")),
        "compute, 6 N D": _flops(metrics.get("flops_6nd")),
        "compute with attention": _flops(metrics.get("flops")),
        "corpus": _corpus(source.recipe),
        "row length (context)": f"{source.context:,} tokens",
        "validation loss, nats a token": _loss(metrics),
        "run": f"`{source.run_id}`",
        "fingerprint": f"`{source.fingerprint}`",
        "class": f"`{target.class_name}`, weights {dtype}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    diverged = "The run diverged: its weights are of no use.\n" if source.diverged else ""
    trust = ", trust_remote_code=True" if target.remote_code else ""
    return f"""\
---
library_name: transformers
pipeline_tag: {task}
tags:
- protein-language-model
- plmscale
---
# {source.run_id or arch.name}

A protein {_WORDS[objective]}, trained with plmscale {_version(metrics)}.
{diverged}
| | |
|---|---|
{table}

## Use
```python
from transformers import {target.auto_class}, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("PATH"{trust})
model = {target.auto_class}.from_pretrained("PATH"{trust})
{_USE[objective]}
```
{_notes(target, objective, dtype)}
## Licence
None is set. Choose one and add `license:` to the header of this file.
"""


def provenance(
    source: Source, target: Target, objective: str, dtype: str, files: dict[str, str]
) -> dict[str, Any]:
    """Return provenance.json; `files` maps the folder's other files to their SHA-256."""
    kept = ("git", "versions", "corpus_sha256", "recipe_sha256", "loss", "tokens", "flops")
    return {
        "schema": 1,
        "format": "plmscale-export",
        "plmscale": plmscale.__version__,
        "run_id": source.run_id,
        "fingerprint": source.fingerprint,
        "objective": source.objective,
        "status": source.metrics["status"],
        "exported_as": objective,
        "class": target.class_name,
        "dtype": dtype,
        "layernorm_rewritten": target.rewritten,
        "source_weights_sha256": source.weights_sha256,
        "training": {key: source.metrics[key] for key in kept if key in source.metrics},
        "files": files,
    }


def _notes(target: Target, objective: str, dtype: str) -> str:
    notes = [
        "Input is one protein in one-letter code; white space is ignored, lower case is read as "
        "upper case, and a letter outside ACDEFGHIKLMNPQRSTVWYXBUZO becomes X."
    ]
    if objective == "clm":
        notes.append(
            "The tokenizer closes a protein with `<eos>`; a start to go on from is written as above."
        )
    if target.model_type in ("eurobert", "ernie4_5_moe"):
        notes.append("Needs transformers 5.")
    if target.rewritten:
        notes.append(
            "The model was trained with LayerNorm; its weights were rewritten exactly for a class "
            "with RMSNorm (centred residual stream, biases moved into linear layers)."
        )
    if target.model_type == "ernie4_5_moe":
        notes.append("The class can hold mixtures of experts; this model has none.")
    if dtype != "fp32":
        notes.append("Weights are rounded to bf16, so logits differ from the trained model's.")
    return "\n".join(notes) + "\n"


def _count(value: Any) -> str:
    return f"{int(value):,}" if isinstance(value, int | float) else "unknown"


def _flops(value: Any) -> str:
    return f"{value:.4g} FLOPs" if isinstance(value, int | float) else "unknown"


def _loss(metrics: dict[str, Any]) -> str:
    if not isinstance(loss := metrics.get("loss"), int | float):
        return "none"
    se = metrics.get("loss_se")
    text = f"{loss:.4f}" + (f" ± {se:.4f} (s.e.)" if isinstance(se, int | float) else "")
    by_source = metrics.get("loss_by_source") or {}
    parts = [f"{k} {v:.4f}" for k, v in sorted(by_source.items()) if isinstance(v, int | float)]
    return f"{text}; {', '.join(parts)}" if parts else text


def _corpus(recipe: dict[str, Any]) -> str:
    corpus = recipe.get("corpus") or {}
    if not corpus:
        return "unknown"
    mix = ", ".join(f"{name} {share:.3g}" for name, share in sorted(corpus.get("mix", {}).items()))
    return f"{corpus.get('name', '')} ({mix}), key `{corpus.get('key', '')}`"


def _version(metrics: dict[str, Any]) -> str:
    return str((metrics.get("versions") or {}).get("plmscale", plmscale.__version__))
