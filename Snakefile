# plmscale: from protein sequences to scaling laws of protein language models.
#   snakemake --cores all                                     the demo (config.yaml)
#   snakemake --configfile studies/X.yaml                     another study
#   snakemake --config select=objective:mlm                   a part of the grid
# `plmscale runs` shows the grid, `plmscale plan` what it costs.
from snakemake.utils import min_version

min_version("9.0")


include: "rules/common.smk"


# Runs come from a grid trained here, or from logs that others released.
if STUDY.logs:

    include: "rules/logs.smk"

else:

    include: "rules/corpus.smk"
    include: "rules/train.smk"


include: "rules/laws.smk"


if STUDY.downstream:

    include: "rules/downstream.smk"


include: "rules/figures.smk"
include: "rules/report.smk"
include: "rules/targets.smk"


report: "rules/report/workflow.rst"


rule all:
    default_target: True
    input:
        f"{VIEW}/report.html",
        DOWNSTREAM,
        DOWNSTREAM_BEST,
