"""Controls between campaigns: each decides where the next campaign starts, and with what."""
