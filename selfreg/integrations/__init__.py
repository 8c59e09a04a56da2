"""Tools for other trainers and their logs: the audit, the watcher, and the guard inside TRL."""
