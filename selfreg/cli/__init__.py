"""Commands. Each module reads flags, calls another subpackage, and prints the result.

docs/commands.md lists the commands.
"""
