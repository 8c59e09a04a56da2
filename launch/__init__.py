"""Fanning a wave out: which chains there are, and running them here or on SLURM."""
