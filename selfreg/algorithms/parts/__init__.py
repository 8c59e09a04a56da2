"""Building blocks of algorithms: settings, advantages, token losses, pairs of completions."""
