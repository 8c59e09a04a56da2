"""Commands: each module reads flags, calls a room, and prints. docs/commands.md lists them."""
