"""The guard inside other people's trainers. Each module needs its trainer to be installed."""
