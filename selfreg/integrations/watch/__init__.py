"""Run the guard beside any trainer by following the trainer's log."""
