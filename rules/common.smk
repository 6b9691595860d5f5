# Shared by all stages. In: the study (config.yaml or --configfile) and --config select=, subset=.
# Out: STUDY (typed), RUNS (the chosen part of the grid, by run_id), folders and the interpreter.
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from plmscale import configfile, files, grid as the_grid, resources as needs, snakefile
from plmscale.corpus.source_config import file_names, is_extracted
from plmscale.downstream import plan as downstream_plan

STUDY, CHOICE = snakefile.load(config, workflow.configfiles, workflow.basedir)
ALL_RUNS = snakefile.Runs(the_grid.expand(STUDY))
RUNS = snakefile.Runs(
    the_grid.chosen_runs(
        STUDY, CHOICE["subset"], CHOICE["select"], [*ALL_RUNS.values()]
    )
)

# Everything a study makes lies in OUT. A selection has its tables, laws, figures and report in a
# folder of its own (VIEW), so that it never overwrites those of the whole study.
OUT = str(STUDY.folder)
# What training jobs ask of the nodes that a profile describes; None where there is no such profile.
CLUSTER = snakefile.cluster_jobs(
    STUDY,
    RUNS,
    ALL_RUNS,
    {
        name: entry.raw
        for name, entry in workflow.resource_settings._parsed_default_resources.items()
    },
    inside=workflow.remote_exec or workflow.subprocess_exec,
)
# The corpus is shared by all studies with the same sources and rules.
CORPUS = snakefile.corpus_folder(STUDY) if STUDY.corpus else ""
VIEW = snakefile.view_folder(OUT, CHOICE)
# Jobs run this interpreter and this checkout's package, whatever is first on the caller's PATH;
# a conda environment (--sdm conda) is activated later and goes before it.
snakefile.prepare_environment(workflow.basedir)


def run_files(name):
    """Return one file of every chosen run; none where runs are read from logs."""
    return [f"{OUT}/runs/{run_id}/{name}" for run_id in RUNS]


def parent_option(run_id):
    """Return the option that names the run a transfer run starts from; none from scratch."""
    parent = ALL_RUNS[run_id].parent
    return ["--parent-dir", f"{OUT}/runs/{parent}"] if parent else []


def parent_metrics(run_id):
    """Return what must exist before a transfer run starts; nothing for one from scratch."""
    option = parent_option(run_id)
    return ancient(f"{option[1]}/metrics.json") if option else []


def trunk_of_run(run_id):
    """Return the run whose beginning this one goes on from; none where it has a whole one."""
    return snakefile.trunk_of_run(f"{OUT}/runs/{run_id}", ALL_RUNS[run_id].trunk)


def trunk_metrics(run_id):
    """Return what should be there before a run with a shared beginning starts."""
    trunk = trunk_of_run(run_id)
    if not trunk:
        return []
    metrics = ancient(f"{OUT}/runs/{trunk}/metrics.json")
    # One that has left the study since is there, or not: no rule makes it.
    return metrics if trunk in ALL_RUNS else before_update(metrics)


# Tables of the downstream evaluation; none where the study asks for none.
DOWNSTREAM = (
    [f"{VIEW}/downstream/{name}.csv" for name in ("metrics", "gains", "failures")]
    if STUDY.downstream
    else []
)
# A target of its own: tables made before `best` was asked for look finished until it is there.
DOWNSTREAM_BEST = (
    [f"{VIEW}/downstream/best.txt"]
    if STUDY.downstream and STUDY.downstream.best
    else []
)
# What figures and report read beyond tables and laws, and the options that hand it to them.
if STUDY.logs:
    ORIGIN = [
        f"{OUT}/{name}"
        for name in ("isoflop_points.csv", "audit.csv", "reproduction.json")
    ]
    ORIGIN_OF_FIGURES = ["--points", ORIGIN[0]]
    ORIGIN_OF_REPORT = ["--audit", ORIGIN[1], "--reproduction", ORIGIN[2]]
else:
    ORIGIN = [
        f"{CORPUS}/manifest.json",
        f"{CORPUS}/stats/sources.csv",
        f"{OUT}/epochs.csv",
    ]
    ORIGIN_OF_FIGURES = [
        "--corpus-stats",
        f"{CORPUS}/stats",
        "--epochs",
        ORIGIN[2],
        "--metrics",
        f"{OUT}/runs",
    ]
    ORIGIN_OF_REPORT = ["--corpus", CORPUS, "--metrics", f"{OUT}/runs"]


# Seconds of work each: on a cluster they run where snakemake runs, as do downloads, for which
# compute nodes often lack the internet. Without a cluster this means nothing.
localrules:
    recipe,
    manifest,
    study_corpus,
    collect,
    resolved_study,


if CLUSTER:

    localrules:
        pack_list,


if CLUSTER and CLUSTER.fetch_here:

    localrules:
        fetch_file,
