"""Evaluation: pass@k, and panels of held-out problems."""
