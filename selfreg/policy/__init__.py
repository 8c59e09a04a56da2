"""The policy: its network, its rollouts, its update, and the devices that hold it."""
