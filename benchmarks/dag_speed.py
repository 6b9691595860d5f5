"""What it costs to plan a study: dry runs, a job's own start, the commands that look at a grid.

    python benchmarks/dag_speed.py [--seeds 6] [--rounds 3] [--json FILE]

`full` is studies/cheng2024.yaml, `wide` a grid of 500 runs a seed (benchmarks/dag_cases.py), both in a
copy of the project, where nothing has run yet.

-n             `snakemake -n`, from the command to the last line
-n, slurm      the same with --profile profiles/slurm; stand-ins for Slurm's commands answer nothing
job            from the first line of the script that the executor hands to sbatch for a training job to
               the first instant of the rule's shell command: two starts of snakemake, one of which is
               the other's child
runs ...       `plmscale runs`, `plan --gpu`, `status` of the full study
peer           a Snakefile with as many jobs, and files that they write, and no functions, params or
               resources: what Snakemake itself takes

Ours and the peer take turns. `cpu` is user and system time of all processes; it is what to compare
where other work runs on the machine. Best and median of the rounds, seconds; the ratio is of the best.
`aim` is for the wall clock of two free cores.

At the end: the modules that a parse imports, and whether torch, deepspeed or transformers is one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from dag_cases import PEER_ON_SLURM, ROOT, Place, counted, snakemake, spread

sys.path.insert(0, str(ROOT / "src"))

STUDIES = {"full": "cheng2024", "wide": "wide"}
AIMS = {"full, -n": 10, "full, -n, slurm": 10, "wide, -n": 60, "wide, -n, slurm": 60}
AIMS |= {"full, job": 5, "wide, job": 5}
HEAVY = ("torch", "deepspeed", "transformers")


def prepared(place, name):
    """Return what to run for one study: {case: (function, peer's function)}, and its numbers."""
    from plmscale import grid, snakefile, study

    file = f"studies/{STUDIES[name]}.yaml"
    loaded = study.load(place.project / file)
    runs = grid.expand(loaded)
    cases, numbers = {}, {"runs": len(runs)}
    for slurm in (False, True):
        ours = snakemake("-n", *(["--profile", "profiles/slurm"] if slurm else []))
        ours += ["--configfile", file]
        # The warm-up of both.
        jobs, files = counted(place.timed(ours, place.project)[2])
        case = f"{name}, -n{', slurm' if slurm else ''}"
        peer = place.peer(f"peer of {case}", len(runs), jobs, files)
        theirs = snakemake("-n", *(PEER_ON_SLURM if slurm else []))
        found = counted(place.timed(theirs, peer)[2])
        if found != (jobs, files):
            raise SystemExit(f"{peer}: {found} jobs and files in place of {(jobs, files)}")
        numbers[case] = {"jobs": jobs, "files": files}
        cases[case] = (
            lambda words=ours: place.timed(words, place.project)[:2],
            lambda words=theirs, folder=peer: place.timed(words, folder)[:2],
        )
    # The job of the largest run, which is in no pack. Its inputs are there before it starts.
    run = max(runs, key=lambda run: (run.recipe["n_params"], run.recipe["flops"]))
    peer = place.peer(f"peer of {name}, job", len(runs), jobs, files)
    for path in (
        place.started / snakefile.corpus_folder(loaded) / "manifest.json",
        peer / "rest/0",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    target = f"{loaded.folder}/runs/{run.run_id}/metrics.json"
    words = ["--profile", "profiles/slurm", "--configfile", file]
    own = place.job(place.started, words, target).rename(place.started / f"{name}.sh")
    other = place.job(peer, PEER_ON_SLURM, "runs/run0/metrics.json")
    cases[f"{name}, job"] = (
        lambda: place.start(own, place.started),
        lambda: place.start(other, peer),
    )
    return cases, numbers


def commands(place):
    study = "studies/cheng2024.yaml"
    words = {"runs": [], "plan": ["--gpu", "H100 SXM", "--gpus", "64"], "status": []}
    return {
        name: (
            lambda line=(sys.executable, "-m", "plmscale.cli", name, study, *more): place.timed(
                line, place.project
            )[:2],
            None,
        )
        for name, more in words.items()
    }


def imported(place):
    """Return the modules that parsing the full study imports, and the seconds that ours take."""
    words = snakemake("-n", "--configfile", "studies/cheng2024.yaml")
    words[1:1] = ["-X", "importtime"]
    text = place.timed(words, place.project)[2]
    lines = [line.split("|") for line in text.splitlines() if line.startswith("import time:")]
    # The first line of these is their heading.
    took = {name.strip(): int(alone.split(":")[1]) for alone, _, name in lines[1:]}
    own = sum(took[name] for name in took if name.partition(".")[0] == "plmscale")
    tops = {name.partition(".")[0] for name in took}
    return {
        "modules": len(took),
        "plmscale_seconds": own / 1e6,
        "heavy": sorted(tops & set(HEAVY)),
    }


def measured(cases, rounds):
    found = {name: {"ours": [], "peer": []} for name in cases}
    for turn in range(rounds):
        for name, pair in cases.items():
            for side, function in zip(("ours", "peer"), pair, strict=True):
                if function:
                    found[name][side].append(function())
        print(f"round {turn + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return {
        name: {
            side: {"wall": spread([w for w, _ in values]), "cpu": spread([c for _, c in values])}
            for side, values in sides.items()
            if values
        }
        for name, sides in found.items()
    }


def show(result):
    head = f"{'':18}{'jobs':>6}{'files':>8} |{'wall':>7}{'median':>8}{'cpu':>7}{'median':>8}"
    print(f"{head} |{'peer: wall':>11}{'cpu':>7} |{'cpu / peer':>11}{'aim':>5}")
    for name, row in result["cases"].items():
        study = name.partition(",")[0]
        size = result["studies"].get(study, {}).get(name, {"jobs": "", "files": ""})
        ours, peer = row["ours"], row.get("peer")
        line = f"{name:18}{size['jobs']:>6}{size['files']:>8} |{ours['wall']['best']:>7.2f}"
        line += f"{ours['wall']['median']:>8.2f}{ours['cpu']['best']:>7.2f}{ours['cpu']['median']:>8.2f} |"
        if peer:
            line += f"{peer['wall']['best']:>11.2f}{peer['cpu']['best']:>7.2f} |"
            line += f"{ours['cpu']['best'] / peer['cpu']['best']:>11.2f}{AIMS[name]:>5}"
        print(line.rstrip())
    found = result["imports"]
    print(
        f"\na parse imports {found['modules']:,} modules, ours in {found['plmscale_seconds']:.2f} s; "
        f"of {', '.join(HEAVY)}: {', '.join(found['heavy']) or 'none'}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6, help="500 runs of the wide study each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    options = parser.parse_args()
    from plmscale.provenance import hardware, versions

    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), options.seeds)
        cases, studies = {}, {}
        for study in STUDIES:
            more, studies[study] = prepared(place, study)
            cases |= more
        result = {
            "hardware": hardware(),
            "versions": versions(),
            "studies": studies,
            "cases": measured(cases | commands(place), options.rounds),
            "imports": imported(place),
        }
    result["load"] = [*load, os.getloadavg()[0]]
    sizes = ", ".join(f"{name} {studies[name]['runs']:,} runs" for name in studies)
    print(f"{result['hardware']}; load {load[0]:.1f} to {result['load'][1]:.1f}; {sizes}\n")
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
