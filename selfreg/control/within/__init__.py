"""Controls within a campaign: after each step, go on or stop."""
