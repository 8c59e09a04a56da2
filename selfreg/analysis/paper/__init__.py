"""The paper: its printed numbers, its tables and figures beside those of stored runs."""
