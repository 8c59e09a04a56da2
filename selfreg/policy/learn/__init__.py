"""The update: advantages, losses, chunked logprobs, collation, the optimizer and the train step."""
