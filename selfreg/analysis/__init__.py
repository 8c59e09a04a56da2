"""What a stored run says: trajectories, statistics, verdicts, plots and reports. No jax."""
