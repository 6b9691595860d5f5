"""How far a study has come: states of runs, speed, time left, what was spent. Reads files only,
and asks Slurm where it is there; everything may be running meanwhile."""
