"""The run_ids of the best runs, one a line."""

import sys

from plmscale.downstream.plan import write_best

with open(snakemake.log[0], "w") as log:
    sys.stderr = log
    params = snakemake.params
    write_best(snakemake.input[0], params.runs, params.columns, snakemake.output[0])
