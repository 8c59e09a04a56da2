"""Algorithms, one per file. Each file defines ALGORITHM.

No code outside this package names an algorithm. A config names one, and selfreg/run/algorithm.py
finds it. docs/add_an_algorithm.md shows how to add one.
"""
