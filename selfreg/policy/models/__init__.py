"""The policy: a Flax decoder, its weights in and out, and the tiny policy's pretraining."""
