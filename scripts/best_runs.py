"""The run_ids of the best runs, one a line."""

import csv
import sys

from plmscale.downstream.plan import best

with open(snakemake.log[0], "w") as log:
    sys.stderr = log
    with open(snakemake.input[0], newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["run_id"] in snakemake.params.runs]
    with open(snakemake.output[0], "w") as out:
        out.writelines(f"{name}\n" for name in best(rows, snakemake.params.columns))
