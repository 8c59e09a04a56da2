"""Launch a wave: list its chains, and run them on this machine or on SLURM."""
