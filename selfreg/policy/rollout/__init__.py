"""Engines: from prompts and seeds to completions."""
