"""What describes and holds a run: its config, records, folder, checkpoints and progress."""
