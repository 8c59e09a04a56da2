"""Describes and stores a run: its config, records, folder, checkpoints and progress."""
