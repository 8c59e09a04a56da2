"""Replay other controls on stored chains."""
