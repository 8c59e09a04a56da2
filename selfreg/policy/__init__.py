"""The policy: its network, its rollouts, its update, and its devices."""
