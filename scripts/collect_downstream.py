"""Tables of the downstream evaluation from what its jobs left."""

import json
import sys
from pathlib import Path

from plmscale.downstream.collect import collect

with open(snakemake.log[0], "w") as log:
    sys.stderr = log
    collect(
        snakemake.input.done,
        Path(snakemake.params.out),
        Path(snakemake.output.metrics).parent,
        json.loads(snakemake.params.options),
        {Path(path).stem: path for path in snakemake.input.leakage},
        snakemake.input.runs,
    )
