"""What a repeated token and a pre-trained model are worth: sentences from laws.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plmscale.figures.style import OBJECTIVE_NAME, si


def repetition_sentences(section: Mapping[str, Any] | None) -> list[str]:
    """Say, per objective, what repeated tokens are worth and where validation loss turns."""
    pairs = (section or {}).get("pairs") or []
    texts = []
    for objective in dict.fromkeys(pair["objective"] for pair in pairs):
        mine = [pair for pair in pairs if pair["objective"] == objective]
        texts += [_worth(objective, mine), _turns(objective, mine)]
    return [text for text in texts if text]


def _worth(objective: str, pairs: Sequence[Mapping[str, Any]]) -> str:
    known = [pair for pair in pairs if (pair.get("R_star") or {}).get("identified")]
    name = OBJECTIVE_NAME.get(objective, objective)
    others = sorted({si(p["n_params"]) for p in pairs if p not in known})
    if not known:
        return (
            f"{name}: how fast repeated tokens lose their worth is not identified at "
            f"{_list(others)} parameters: the loss that repetition adds is too near its noise."
        )
    parts = [
        f"{_share(pair['effective_tokens'])} of as many fresh ones at {si(pair['n_params'])} "
        f"parameters ({pair['corpora']['repeated']}, {pair['effective_tokens']['epochs']:.1f} epochs; "
        f"R* {pair['R_star']['value']:.1f}, {_ends(pair['R_star']['ci95'])})"
        for pair in known
        if pair.get("effective_tokens")
    ]
    text = f"{name}: repeated tokens are worth {_list(parts)}"
    return text + (f"; not identified at {_list(others)}." if others else ".")


def _turns(objective: str, pairs: Sequence[Mapping[str, Any]]) -> str:
    name = OBJECTIVE_NAME.get(objective, objective)
    turned = [p for p in pairs if (p.get("turn") or {}).get("verdict") == "turns"]
    steady = sorted({si(p["n_params"]) for p in pairs if p not in turned and p.get("turn")})
    if not turned:
        return (
            f"{name}: no run that repeats its tokens turns to a rising validation loss."
            if steady
            else ""
        )
    parts = [
        f"epoch {p['turn']['epoch']['value']:.1f} ({_ends(p['turn']['epoch']['ci95'])}) at "
        f"{si(p['n_params'])} parameters ({p['corpora']['repeated']}), after which it rises by "
        f"{p['turn']['rise']['value']:.3f} nats per token"
        for p in turned
    ]
    text = f"{name} overfits: validation loss is least at {_list(parts)}"
    still = [size for size in steady if size not in {si(p["n_params"]) for p in turned}]
    return text + (f"; no turn at {_list(still)}." if still else ".")


def transfer_sentences(section: Mapping[str, Any] | None) -> list[str]:
    """Say, per direction, what pre-training with the other objective saves and whether it pays."""
    texts = []
    for direction in ((section or {}).get("directions") or {}).values():
        child = OBJECTIVE_NAME.get(direction["objective"], direction["objective"])
        parent = OBJECTIVE_NAME.get(direction["pretraining"], direction["pretraining"])
        speed, total = direction.get("mean_speed_up"), direction.get("mean_total_worth")
        if not speed or not total or speed["value"] is None or total["value"] is None:
            continue
        low, high = total["ci95"]
        pays = (
            "does not say whether that pays" if low is None or high is None or low <= 1 <= high
            else "it pays" if low > 1 else "it does not pay"
        )  # fmt: skip
        sizes = [pair["n_params"] for pair in direction["pairs"]]
        at = (
            f"{len(sizes)} sizes, {si(min(sizes))} to {si(max(sizes))}" if len(sizes) > 1
            else f"one size, {si(sizes[0])}"
        )  # fmt: skip
        text = (
            f"{child} after {parent} ({at}): a run reaches the loss that takes {speed['value']:.2f} "
            f"({_ends(speed['ci95'])}) times its tokens from scratch. With the pre-training's "
            f"compute counted, all of it is worth {total['value']:.2f} ({_ends(total['ci95'])}) times "
            "as much from scratch: "
        )
        text += f"the interval {pays}." if pays.startswith("does") else f"{pays}."
        share = direction.get("share") or {}
        if share.get("at_edge"):
            text += (
                " The best share for pre-training lies at the edge of those tried, and share and "
                "size change together in these runs, so it is not identified."
            )
        texts.append(text)
    return texts


def _share(tokens: Mapping[str, Any]) -> str:
    return f"{tokens['share']['value']:.0%}"


def _ends(pair: Sequence[float | None]) -> str:
    low, high = pair
    if low is None and high is None:
        return "unbounded"
    if high is None:
        return f"95 % above {low:.1f}"
    if low is None:
        return f"95 % below {high:.1f}"
    digits = 2 if high < 3 else 1 if high < 100 else 0
    return f"95 % {low:.{digits}f} to {high:.{digits}f}"


def _list(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
