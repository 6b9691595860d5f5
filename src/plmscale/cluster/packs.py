"""Which small runs share a job, and how that is remembered.

A pack is named by its members. Its list (`packs/NAME.runs.json`) is written by the workflow before its job
is submitted, its result (`packs/NAME.done.json`) by the job. A run that has not finished belongs to

- the pack whose list names it, while that has no result: a killed pack goes on with the same members;
- no pack, once one has tried it: a run that failed in a pack gets a job of its own;
- a new pack, together with others of its kind, if no list names it.

So a run added later makes a new pack and changes none, and whatever a pack has finished stays finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plmscale.cluster.site import Allocator, most_members
from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint, read_json
from plmscale.grid import Run


class Packs:
    """The packs of a study's chosen runs. `allocator` None: runs are not packed here."""

    def __init__(
        self, out: Path, chosen: Mapping[str, Run], runs: Mapping[str, Run], site: Allocator | None
    ) -> None:
        self.out, self.chosen, self.runs, self.site = Path(out), chosen, runs, site
        self.folder = self.out / "packs"
        # Run -> pack, from the files of earlier jobs.
        self.tried = self._read("done")
        self.listed = {
            run: pack
            for run, pack in self._read("runs").items()
            if not (self.folder / f"{pack}.done.json").exists()
        }
        self.new: dict[str, list[str]] = self._assign() if site else {}
        self.of_new = {run: pack for pack, members in self.new.items() for run in members}

    def _read(self, what: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in sorted(self.folder.glob(f"*.{what}.json")):
            try:
                runs = read_json(path)["runs"]
            except (PlmscaleError, KeyError, TypeError):
                continue
            found |= dict.fromkeys(runs, path.name.removesuffix(f".{what}.json"))
        return found

    def marker(self, run_id: str) -> str | None:
        """Return the file that must be there before this run's own job: its pack's result."""
        if run_id in self.tried:
            pack = self.tried[run_id]
        elif self.finished(run_id) or not self.site:
            return None
        else:
            pack = self.listed.get(run_id) or self.of_new.get(run_id)
        return f"{self.folder}/{pack}.done.json" if pack else None

    def finished(self, run_id: str) -> bool:
        return (self.out / "runs" / run_id / "metrics.json").exists()

    def members(self, pack: str) -> list[Run]:
        """Return the runs of a pack that the study still has, in the order of its list."""
        path = self.folder / f"{pack}.runs.json"
        names = read_json(path)["runs"] if path.exists() else self.new.get(pack, [])
        return [self.runs[name] for name in names if name in self.runs]

    def before(self, pack: str) -> list[str]:
        """Return the runs outside of a pack that its members go on from."""
        members = self.members(pack)
        inside = {run.run_id for run in members}
        asked = {name for run in members for name in (run.parent, run.trunk) if name}
        return sorted(asked - inside)

    def list_of(self, pack: str) -> dict[str, Any]:
        """Return what a pack's list holds: recipes, and the runs whose beginning some go on from."""
        members = self.members(pack)
        return {
            "runs": {run.run_id: run.recipe for run in members},
            "trunks": {run.run_id: run.trunk for run in members if run.trunk},
        }

    def _assign(self) -> dict[str, list[str]]:
        site = self.site
        if site is None or not (site.site.node_gpus and site.site.node_packs):
            return {}
        kinds: dict[tuple[int, int], list[Run]] = {}
        for name, run in self.chosen.items():
            if name in self.tried or name in self.listed or self.finished(name):
                continue
            if (slots := site.sized(run.recipe).slots) > 1:
                kinds.setdefault((self.depth(run), slots), []).append(run)
        packs = {}
        for runs in kinds.values():
            # Long ones first, and with their like, so that a pack's last run is not waited for.
            runs.sort(key=lambda run: (-run.recipe["flops"], run.run_id))
            while len(runs) > 1:
                count = max(2, most_members([run.recipe for run in runs], site))
                names = [run.run_id for run in runs[:count]]
                packs[fingerprint(sorted(names))[:12]] = names
                runs = runs[count:]
        return packs

    def depth(self, run: Run) -> int:
        """Return how many runs must end, one after another, before this one.

        A pack holds runs of one depth, so that no two packs can wait for each other.
        """
        before = [self.runs[name] for name in (run.parent, run.trunk) if name in self.runs]
        return max((1 + self.depth(other) for other in before), default=0)
