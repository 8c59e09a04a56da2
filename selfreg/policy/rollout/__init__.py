"""Rollout engines: draw completions for prompts and seeds."""
