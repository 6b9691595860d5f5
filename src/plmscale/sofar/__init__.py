"""Tables, laws, figures and report of the runs that are finished, while the others train.

Reads what training leaves, writes one folder of its own, and asks neither Snakemake nor Slurm to
do anything: so it can run beside them at any time."""
