"""Estimate the memory and the hours of a config before it runs: `python -m selfreg.plan`."""
