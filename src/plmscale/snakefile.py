"""What the Snakefile asks of the package: the study behind a `config`, and where a view lies."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plmscale.cluster.check import check
from plmscale.cluster.jobs import Jobs
from plmscale.cluster.packs import Packs
from plmscale.cluster.site import Allocator, read_site
from plmscale.corpus.mixing import longest_recipes
from plmscale.corpus.source_config import SourceConfig, file_names, is_plain_fasta
from plmscale.errors import PlmscaleError, suggest
from plmscale.files import canonical_json, fingerprint, read_json
from plmscale.grid import Run, parse_select
from plmscale.settings import ExecutionConfig, Study
from plmscale.study import merge, read_yaml, resolve, settled, validate

_CHOICE = ("select", "subset")
# The tables below a corpus' stats/.
CORPUS_TABLES = ["lengths", "residues", "sources", "duplicates", "identity"]


class Runs(dict[str, Run]):
    """Runs by their run_id. Asking for one that is not there ends with a line for people.

    The rules know runs by any name without a slash, because a pattern of thousands of names would be
    most of the time that Snakemake takes to plan them.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        super().__init__((run.run_id, run) for run in runs)

    def __missing__(self, run_id: str) -> Run:
        hint = suggest(run_id, self)
        hint = hint if hint.startswith("; did") else "; `plmscale runs` lists those it has"
        raise SystemExit(f"plmscale: error: this study has no run {run_id!r}{hint}")


def load(
    config: Mapping[str, Any], configfiles: Sequence[Any], basedir: str | Path
) -> tuple[Study, dict[str, str]]:
    """Return the study and the choice (`select`, `subset`) that Snakemake's `config` stands for.

    Without --configfile, `config` holds only --config entries, which are laid on config.yaml.
    Raises SystemExit with one line, because a traceback of the Snakefile helps nobody.
    """
    data = dict(config)
    choice = {key: str(data.pop(key, "") or "") for key in _CHOICE}
    try:
        if configfiles:
            # Snakemake hands files and --config over as one mapping, merged its own way. Merge
            # the files by our rules, then lay on top only what the command line changed.
            merged: dict[str, Any] = {}
            raw: dict[str, Any] = {}
            for path in map(Path, configfiles):
                content = read_yaml(path)
                # An `overlays` is relative to its own file.
                merged = merge(merged, resolve(content, path.parent))
                raw = _deep_update(raw, content)
            merged = merge(merged, _difference(data, raw))
            name = str(configfiles[-1])
        else:
            merged = merge(read_yaml(Path(basedir) / "config.yaml"), data)
            name = "config.yaml"
        parse_select(choice["select"])
        return settled(validate(merged, name), basedir), choice
    except PlmscaleError as error:
        raise SystemExit(f"plmscale: error: {error}") from None


def _deep_update(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
            out[key] = _deep_update(dict(out[key]), value)
        else:
            out[key] = value
    return out


def _difference(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(old.get(key), Mapping):
            if inner := _difference(value, old[key]):
                changed[key] = inner
        elif key not in old or old[key] != value:
            changed[key] = value
    return changed


def view_folder(out: str, choice: Mapping[str, str]) -> str:
    """Return the folder for tables and figures of a choice; the study's own without one."""
    if not any(choice.values()):
        return out
    text = "_".join(filter(None, (choice["subset"], choice["select"])))
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
    # Different selections may share a slug or be too long for a file name.
    if len(slug) > 60 or slug != text:
        slug = f"{slug[:60]}-{fingerprint(dict(choice))[:6]}"
    return f"{out}/subsets/{slug}"


def part_text(choice: Mapping[str, str], chosen: int, all_runs: int) -> str:
    """Return which part of a study a choice is, for its report; "" where nothing was chosen."""
    named = ", ".join(f"{key} {choice[key]}" for key in ("subset", "select") if choice[key])
    return f"{named}: {chosen} of the study's {all_runs} runs" if named else ""


def beside(folder: str, name: str) -> list[str]:
    """Return the path of `name` beside `folder` in a list, empty where there is none."""
    path = Path(folder).parent / name
    return [str(path)] if folder and path.is_file() else []


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Return a recipe as the text of its recipe.json: sorted keys, indented."""
    return json.dumps(recipe, indent=2, sort_keys=True, allow_nan=False)


def corpus_folder(study: Study) -> str:
    """Return the folder of the study's corpus, which all studies of the same key share."""
    return f"{study.results}/corpora/{study.corpus.key()[:12]}"


def corpus_text(study: Study) -> str:
    """Return the corpus settings as JSON, for a command line; weights and mixes are the study's."""
    sources = {name: {"weight"} for name in study.corpus.sources}
    return canonical_json(study.corpus.model_dump(exclude={"mixes": True, "sources": sources}))


def source_text(study: Study, name: str) -> str:
    """Return the settings of one source as JSON, for a command line."""
    return canonical_json(study.corpus.sources[name].model_dump(exclude_defaults=True))


def reading_text(study: Study, name: str) -> str:
    """Return, as JSON, how one source is read, and nothing of where it is or what it is called."""
    source = study.corpus.sources[name]
    read = {"format": source.reads_as, "path": "-"}
    read |= {key: getattr(source, key) for key in ("member", "column", "id_column")}
    if source.reads_as == "mmseqs":
        # The files of a database belong together by their names.
        names = [{"path": Path(file.place).name} for file in source.all_files()]
        read |= {"path": "", "files": names}
    return canonical_json(read)


def counted(source: SourceConfig) -> list[str]:
    """Return the fetched files of a source that seqkit can count: FASTA, plain or gzip."""
    if not is_plain_fasta(source):
        return []
    others = (".xz", ".zst", ".zstd", ".bz2")
    named = zip(file_names(source), source.all_files(), strict=True)
    return [name for name, file in named if not file.place.lower().endswith(others)]


def longest_runs_text(runs: Iterable[Run]) -> str:
    """Return, as JSON, what decides the epochs of each source: of each mix and budget the longest run."""
    longest = longest_recipes(run.recipe for run in runs).values()
    keys = ("corpus", "budget", "tokens", "context")
    return canonical_json([{key: recipe[key] for key in keys} for recipe in longest])


def layout_options(execution: ExecutionConfig) -> str:
    """Return the launcher's options for how runs lie on their devices."""
    return (
        f"--zero-stage {execution.zero_stage} --micro-rows {execution.micro_rows}"
        f" --activation-checkpointing {execution.activation_checkpointing}"
        f" --compile {execution.compile}"
    )


def trunk_of_run(run_dir: str, planned: str | None) -> str | None:
    """Return the run whose beginning another one takes: as planned, or as it was when it finished.

    A finished run keeps what it had, so that a budget added in between starts nothing again.
    """
    metrics = Path(run_dir) / "metrics.json"
    if planned is None or not metrics.exists():
        return planned
    return read_json(metrics).get("trunk_asked")


def trunk_option(trunk: str | None, out: str) -> str:
    """Return the launcher's option for a run's trunk, quoted."""
    return f"--trunk-dir {shlex.quote(f'{out}/checkpoints/{trunk}')}" if trunk else ""


def cluster_jobs(
    study: Study,
    chosen: Mapping[str, Run],
    runs: Mapping[str, Run],
    defaults: Mapping[str, Any],
    inside: bool,
) -> Jobs | None:
    """Return what training jobs ask for on the nodes that a profile describes, or None without.

    `defaults` are the profile's default-resources; `inside`: a job reads the rules on its node.
    Raises SystemExit with one line where profile, cluster and grid do not fit each other.
    """
    try:
        if (site := read_site(defaults)) is None:
            return None
        allocator, out = Allocator(study, site), Path(study.folder)
        partition = str(defaults.get("slurm_partition") or "")
        if not inside:
            if partition:
                check(site, partition)
            for name, run in chosen.items():
                if not (out / "runs" / name / "metrics.json").exists():
                    allocator.need(run.recipe, out / "checkpoints" / name)
        packs = Packs(out, chosen, runs, None if inside else allocator)
    except PlmscaleError as error:
        raise SystemExit(f"plmscale: error: {error}") from None
    return Jobs(allocator, runs, packs, out, partition, inside)


def pack_marker(jobs: Jobs | None, run_id: str) -> Any:
    """Return the input of a run's recipe: the result of its pack where it has one."""
    marker = jobs.packs.marker(run_id) if jobs else None
    return [marker] if marker else []


def prepare_environment(basedir: str | Path) -> None:
    """Put this interpreter first on PATH and this checkout's src first on PYTHONPATH.

    The Snakefile is read by every job on every node, so all of them get it.
    """
    for name, folder in (
        ("PATH", str(Path(sys.executable).parent)),
        ("PYTHONPATH", str(Path(basedir).resolve() / "src")),
    ):
        parts = [p for p in os.environ.get(name, "").split(os.pathsep) if p and p != folder]
        os.environ[name] = os.pathsep.join([folder, *parts])
