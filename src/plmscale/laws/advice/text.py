"""An answer of `advise` for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plmscale.textable import cell, table

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def advice_text(answer: Mapping[str, Any]) -> str:
    """Return an answer as a table of N, D and loss, then what else is worth knowing."""
    lines = [
        f"{answer['objective']} at {answer['flops']:.3g} FLOPs, by {answer['method']}: "
        f"{answer['why']}",
        "", _values(answer), "",
    ]  # fmt: skip
    remarks = list(_remarks(answer))
    width = max(len(label) for label, _ in remarks)
    lines += [f"{label.ljust(width)}  {text}" for label, text in remarks]
    return "\n".join([*lines, *(f"warning: {text}" for text in answer["warnings"])])


def count_text(value: float) -> str:
    """Return a count in thousands, millions, billions (B) or trillions, three digits."""
    for size, unit in _UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}" if value < 999.5 * size else f"{value:.3g}"
    return f"{value:.3g}"


def _values(answer: Mapping[str, Any]) -> str:
    rows = [("parameters N", answer["n_params"], count_text)]
    if stage := answer.get("pretrain"):
        first, then = stage["objective"].upper(), answer["objective"].rsplit("-", 1)[1].upper()
        rows += [
            (f"tokens for {first}", stage["tokens"], count_text),
            (f"tokens for {then}", answer["tokens"], count_text),
            (f"share of FLOPs for {first}", stage["share"], lambda share: f"{share:.1%}"),
        ]
    else:
        rows.append(("tokens D", answer["tokens"], count_text))
    rows += [
        ("loss, nats a token", answer["loss"], lambda loss: f"{loss:.3f}"),
        ("perplexity", answer["perplexity"], lambda loss: f"{loss:.2f}"),
    ]
    return table(
        [
            {"": label, "value": say(item["value"]), "95 % interval": _interval(item["ci95"], say)}
            for label, item, say in rows
        ],
        ["", "value", "95 % interval"],
    )


def _interval(ends: list[float | None], say: Any) -> str:
    low, high = ("not bounded" if end is None else say(end) for end in ends)
    return f"{low} to {high}" if low != high or None not in ends else "unknown"


def _remarks(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    if machine := answer.get("hardware"):
        found += _hardware(machine, answer.get("pretrain"))
    if worth := answer.get("worth"):
        ends = _interval(worth["ci95"], lambda value: f"{value:.2f}")
        found.append(
            ("pre-training", f"makes the compute worth {worth['value']:.2f} times as much as from "
             f"scratch ({ends}), where the loss would be {answer['scratch_loss']['value']:.3f}")
        )  # fmt: skip
    if "tokens_per_param" in answer:
        found.append(("tokens a parameter", f"{answer['tokens_per_param']:.3g}"))
    found.append(("nearest size", _nearest(answer["architecture"])))
    far = answer["extrapolation"]
    side = f"{far['decades']:.1f} decades outside" if far["decades"] else "inside"
    low, high = far["fitted"]
    found.append(("fitted on", f"{low:.3g} to {high:.3g} FLOPs; this is {side}"))
    if answer.get("flops_convention"):
        found.append(("FLOPs are", answer["flops_convention"]))
    for method, item in answer.get("methods", {}).items():
        size, loss = item["n_params"], item["loss"]["value"]
        found.append(
            (f"by {method}", f"N {count_text(size['value'])} "
             f"({_interval(size['ci95'], count_text)}), loss {loss:.3f}"
             + ("" if item["sound"] else "; not sound: see its warnings"))
        )  # fmt: skip
    return found


def _hardware(machine: Mapping[str, Any], stage: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    hours = f"{machine['hours']:.3g} hours"
    if stage:
        hours += f", {machine['hours'] * stage['share']['value']:.3g} of them {stage['objective'].upper()}"
    share = "assumed; --mfu sets it" if machine["assumed"] else "as given"
    return [
        ("hardware", f"{machine['gpus']} x {machine['gpu']}, {hours}"),
        ("MFU", f"{machine['mfu']:.0%} of {machine['peak_flops'] / 1e12:.4g} TFLOP/s "
         f"({machine['format']}), {share}"),
    ]  # fmt: skip


def _nearest(near: Mapping[str, Any]) -> str:
    size = f"{near['name']} ({near['n_layers']} x {near['d_model']}, {cell(near['n_params'])})"
    if not near["near"]:
        return f"none of the paper's; the closest is {size}, {near['ratio']:.3g} x N"
    text = f"{size}, {near['ratio']:.2f} x N: {count_text(near['tokens'])} tokens"
    if near["loss_penalty"] is None:
        return text
    return f"{text}, loss {near['loss']:.3f} ({near['loss_penalty']:+.4f})"
