"""What each law lacks while runs are missing, and what cannot be fitted yet. From missing.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plmscale.figures import lawview
from plmscale.figures.style import OBJECTIVE_NAME, flops_text
from plmscale.laws.isoflop.profiles import MIN_SIZES
from plmscale.laws.single import MIN_POINTS, SINGLE_LAWS
from plmscale.report.parts import Table

Found = Mapping[str, Any]
Point = Mapping[str, Any]

# A law in C takes two budgets (plmscale.laws.isoflop.entry).
MIN_BUDGETS = 2
COLUMNS = (
    ("objective", "text"), ("what a law needs", "nowrap"), ("there", "nowrap"),
    ("missing or lost", "wide"), ("so far", "remark"),
)  # fmt: skip
_METHODS = {**lawview.METHODS, "loss_n": "L(N)", "loss_d": "L(D)", "loss_c": "L(C)"}
_PROFILE_METHODS = tuple(name for name in _METHODS if name.startswith("isoflop"))
_STATES = {"parent_failed": "parent lost"}
_FEW = 4


def points_table(found: Found) -> Table:
    """Return, for each law of the whole grid, how many of its points there are."""
    states = {row["run_id"]: row for row in found["runs"]}
    rows = []
    for point in _of(found, "profile"):
        rows.append(
            [
                _name(point), f"profile at {flops_text(point['budget'])} FLOPs",
                f"{len(point['there'])} of {_many(point['planned'], 'size')}",
                _open(point, states), _profile_state(point),
            ]
        )  # fmt: skip
    for point in _of(found, "runs"):
        rows.append(
            [
                _name(point), "L(N, D), envelope", _there(point, "run"),
                _by_state(point, states), _runs_state(point),
            ]
        )  # fmt: skip
    for kind in ("repetition", "transfer"):
        for objective, points in _by_objective(_of(found, kind)).items():
            whole = _together(points)
            rows.append(
                [
                    OBJECTIVE_NAME.get(objective, objective), f"{kind}: comparisons",
                    f"{len(whole['there'])} of {whole['planned']}", _by_state(whole, states),
                    "complete" if not whole["missing"] else
                    "incomplete" if whole["there"] else "none yet",
                ]
            )  # fmt: skip
    rows.sort(key=lambda row: row[0])
    return Table("missing-points", "Points of the laws", [], COLUMNS, rows)


def not_yet(found: Found) -> list[str]:
    """Return, objective by objective, what cannot be fitted yet and why, and what may still move."""
    texts: list[str] = []
    for runs in _of(found, "runs"):
        objective, name = runs["objective"], _name(runs)
        fitted = found["laws"].get(objective) or {}
        if odd := found["other_runs"].get(objective):
            texts.append(
                f"{name}: most of its finished runs are of another corpus or mask ratio than most "
                f"of the grid's. What is fitted so far is of those ({_listed(odd)}), not of the "
                "grid's."
            )
        if runs["never"]:
            texts.append(f"{name}: no law, even when all runs are finished: {runs['never']}.")
            continue
        if not runs["there"]:
            texts.append(
                f"{name}: none of the {_many(runs['planned'], 'run')} of its laws is finished, so "
                "there is no law."
            )
            continue
        profiles = [p for p in _of(found, "profile") if p["objective"] == objective]
        texts += _profile_laws(name, profiles, fitted, found)
        texts += _other_laws(name, fitted)
    for kind in ("repetition", "transfer"):
        for objective, points in _by_objective(_of(found, kind)).items():
            if not any(p["there"] for p in points) and any(p["missing"] for p in points):
                name = OBJECTIVE_NAME.get(objective, objective)
                texts.append(f"{name}: nothing can be said on {kind} yet; no comparison has all its runs.")  # fmt: skip
    return texts


def _profile_laws(name: str, profiles: list[Point], fitted: Found, found: Found) -> list[str]:
    """Say why no profile gives a law in C yet, or what one that is there rests on."""
    own = {m: fitted[m] for m in _PROFILE_METHODS if m in fitted}
    whole = [p for p in profiles if len(p["there"]) >= MIN_SIZES]
    possible = [p for p in profiles if p["planned"] - len(p["lost"]) >= MIN_SIZES]
    takes = f"they take {MIN_BUDGETS} budgets with {MIN_SIZES} finished sizes each"
    laws = f"{name}: best size and tokens as laws of compute"
    if any(entry["law"] for entry in own.values()):
        open_ = [p for p in profiles if p["missing"]]
        if not open_:
            return []
        cut = sum(1 for p in whole if p["missing"])
        top = max(p["budget"] for p in whole) if whole else 0.0
        text = (
            f"{name}: the laws of compute rest on {len(whole)} of {_many(len(profiles), 'profile')}, "
            f"up to {flops_text(top)} of {flops_text(max(p['budget'] for p in profiles))} FLOPs"
        )
        if cut:
            text += (
                f"; {cut} of these {'lacks' if cut == 1 else 'lack'} sizes, where the best may lie"
            )
        return [text + ". Their exponents can still move."]
    if len(possible) < MIN_BUDGETS:
        left = "left of those planned" if len(profiles) > len(possible) else "in the grid"
        return [
            f"{laws} cannot be fitted, even when all runs are finished: {takes}, and there "
            f"{_are(len(possible))} {left}."
        ]
    if len(whole) < MIN_BUDGETS:
        nearest = sorted(
            (p for p in possible if p not in whole), key=lambda p: MIN_SIZES - len(p["there"])
        )
        states = {row["run_id"]: row for row in found["runs"]}
        need = nearest[0]
        lack = MIN_SIZES - len(need["there"])
        return [
            f"{laws} cannot be fitted yet: {takes}, and there {_are(len(whole))}. "
            f"Nearest: {flops_text(need['budget'])} FLOPs, where {lack} more "
            f"{'is' if lack == 1 else 'are'} needed ({_open(need, states)})."
        ]  # fmt: skip
    why = next((entry["why"] for entry in own.values() if entry["why"]), "")
    return [f"{laws}: there are {len(whole)} profiles, but no law{': ' + why if why else ''}."]


def _other_laws(name: str, fitted: Found) -> list[str]:
    """Give the fit's own reason for each other law that could not be fitted."""
    any_profile = any(fitted[m]["law"] for m in _PROFILE_METHODS if m in fitted)
    reasons: dict[str, list[str]] = {}
    for method, entry in fitted.items():
        # What all profile methods lack together is said in one sentence of its own.
        if entry["law"] or (method in _PROFILE_METHODS and not any_profile):
            continue
        why = entry["why"] or "too few runs"
        if method in SINGLE_LAWS:
            why = f"fewer than the {MIN_POINTS} points that it takes"
        reasons.setdefault(why, []).append(_METHODS.get(method, method))
    return [f"{name}, {_and(names)}: {why}." for why, names in reasons.items()]


def figure_basis(found: Found, figure: str) -> str:
    """Return which part of the grid's points a figure shows; "" for one that shows all runs."""
    if figure in ("repetition", "transfer"):
        points = _of(found, figure)
        there = sum(bool(p["there"]) for p in points)
        return f"{there} of {_many(len(points), 'comparison')}" if points else ""
    if figure in ("parametric", "isoloss", "identifiability"):
        return ", ".join(f"{_name(p)} {_there(p, 'run')}" for p in _of(found, "runs"))
    if figure in ("learning_curves", "speed"):
        return ""
    profiles = _of(found, "profile")
    parts = []
    for objective, points in _by_objective(profiles).items():
        whole = sum(not p["missing"] for p in points)
        parts.append(
            f"{OBJECTIVE_NAME.get(objective, objective)} {whole} of {_many(len(points), 'profile')} complete"
        )
        cut = [p for p in points if p["missing"]] if figure == "isoflop" else []
        shown = [
            f"{flops_text(p['budget'])} FLOPs: {len(p['there'])} of {_many(p['planned'], 'size')}"
            for p in cut[:_FEW]
        ]
        if shown:
            more = f", and {len(cut) - _FEW} more" if len(cut) > _FEW else ""
            parts[-1] += f" ({', '.join(shown)}{more})"
    return "; ".join(parts)


def _of(found: Found, kind: str) -> list[Point]:
    return [point for point in found["points"] if point["kind"] == kind]


def _by_objective(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point["objective"], []).append(point)
    return found


def _together(points: Sequence[Point]) -> dict[str, Any]:
    parts = {kind: [x for p in points for x in p[kind]] for kind in ("there", "lost", "missing")}
    return {**parts, "planned": sum(p["planned"] for p in points)}


def _name(point: Point) -> str:
    return OBJECTIVE_NAME.get(point["objective"], point["objective"])


def _many(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _are(n: int) -> str:
    """Return "are none", "is 1", "are 2"."""
    return f"{'is' if n == 1 else 'are'} {n or 'none'}"


def _there(point: Point, word: str) -> str:
    return f"{len(point['there'])} of {_many(point['planned'], word)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more


def _open(point: Point, states: Found) -> str:
    """Return what is missing or lost: "3k running (45 %); 7k, 12k waiting"."""
    by_state: dict[str, list[str]] = {}
    for item in [*point["missing"], *point["lost"]]:
        state, far = _state(item["runs"], states)
        by_state.setdefault(state, []).append(item["name"] + far)
    return "; ".join(f"{_listed(names)} {state}" for state, names in by_state.items()) or "–"


def _by_state(point: Point, states: Found) -> str:
    counts: dict[str, int] = {}
    for item in [*point["missing"], *point["lost"]]:
        state, _ = _state(item["runs"], states)
        counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{n} {state}" for state, n in counts.items()) or "–"


def _state(runs: Sequence[str], states: Found) -> tuple[str, str]:
    """Return state and share of the run of these that is nearest to its end: "running", " (45 %)"."""
    row = max((states[name] for name in runs), key=lambda row: row["share"])
    state = row["status"]
    far = f" ({100 * row['share']:.0f} %)" if state in ("running", "stopped") else ""
    return _STATES.get(state, state), far


def _runs_state(point: Point) -> str:
    if point["never"]:
        return "too little for a law"
    return "incomplete" if point["missing"] else "complete"


def _profile_state(point: Point) -> str:
    if point["planned"] - len(point["lost"]) < MIN_SIZES:
        return f"no profile: fewer than {MIN_SIZES} sizes are left"
    if len(point["there"]) < MIN_SIZES:
        return f"no profile yet: it takes {MIN_SIZES} sizes"
    if point["missing"]:
        return "the best size may be among the missing"
    lost = len(point["lost"])
    return f"complete but for {lost} lost" if lost else "complete"
