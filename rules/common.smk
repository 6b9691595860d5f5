# Shared by all stages. In: the study (config.yaml or --configfile) and --config select=, subset=.
# Out: STUDY (typed), RUNS (the chosen part of the grid, by run_id), folders and the interpreter.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from plmscale import configfile, files, grid as the_grid, resources as needs, snakefile

STUDY, CHOICE = snakefile.load(config, workflow.configfiles, workflow.basedir)
ALL_RUNS = {run.run_id: run for run in the_grid.expand(STUDY)}
RUNS = {
    run.run_id: run
    for run in the_grid.chosen_runs(STUDY, CHOICE["subset"], CHOICE["select"])
}

# Everything a study makes lies in OUT. A selection has its tables, laws, figures and report in a
# folder of its own (VIEW), so that it never overwrites those of the whole study.
OUT = str(STUDY.folder)
VIEW = snakefile.view_folder(OUT, CHOICE)
# Jobs run this interpreter and this checkout's package, whatever is first on the caller's PATH;
# a conda environment (--sdm conda) is activated later and goes before it.
snakefile.prepare_environment(workflow.basedir)


wildcard_constraints:
    run_id="|".join(ALL_RUNS),
    source="|".join(STUDY.corpus.sources),


def run_files(name):
    """Return one file of every chosen run."""
    return [f"{OUT}/runs/{run_id}/{name}" for run_id in RUNS]


def parent_option(run_id):
    """Return the option that names the run a transfer run starts from; none from scratch."""
    parent = ALL_RUNS[run_id].parent
    return ["--parent-dir", f"{OUT}/runs/{parent}"] if parent else []


def parent_metrics(run_id):
    """Return what must exist before a transfer run starts; nothing for one from scratch."""
    option = parent_option(run_id)
    return ancient(f"{option[1]}/metrics.json") if option else []
