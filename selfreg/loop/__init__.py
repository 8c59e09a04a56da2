"""Campaigns in a row: sample, grade, learn, measure, observe, decide."""
