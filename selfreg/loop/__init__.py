"""Runs campaigns in a row: each one samples, grades, learns, measures and observes."""
