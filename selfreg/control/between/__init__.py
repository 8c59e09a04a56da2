"""Controls between campaigns: where the next one starts, and with what."""
