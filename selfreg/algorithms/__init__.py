"""Algorithms: one file each, which defines ALGORITHM.

Nothing outside of this package names one. A config does, and selfreg/run/algorithm.py finds it.
docs/add_an_algorithm.md shows how to add one.
"""
