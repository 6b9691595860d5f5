"""Runs table and curves from the runs' folders."""

import sys
from pathlib import Path

from plmscale.collect import collect

with open(snakemake.log[0], "w") as log:
    sys.stderr = log
    collect(
        [Path(path).parent for path in snakemake.input.metrics],
        snakemake.output.runs,
        snakemake.output.curves,
    )
