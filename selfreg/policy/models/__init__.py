"""Models: a Flax decoder, LoRA adapters, and reading and writing weights."""
