"""Parts of algorithms: settings, advantages, ratios and clips, pairs of completions."""
