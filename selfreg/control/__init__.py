"""The controls: pure functions of records and a small frozen state. No I/O, no jax."""
