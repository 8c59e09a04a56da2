"""What algorithms are built from: advantages, ratios and clips, pairs of completions."""
