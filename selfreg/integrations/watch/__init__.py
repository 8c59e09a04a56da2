"""The guard beside a trainer that knows nothing of it: it follows the trainer's log."""
