"""Controls asked again about stored chains."""
