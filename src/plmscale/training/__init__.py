"""Training of one recipe by DeepSpeed; knows a recipe and a corpus folder, nothing else."""
