"""Memory and hours of a config before it runs: `python -m selfreg.plan`."""
