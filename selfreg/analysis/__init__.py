"""Analysis of stored runs: trajectories, statistics, verdicts, plots and reports. Needs no jax."""
