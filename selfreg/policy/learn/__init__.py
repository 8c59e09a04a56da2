"""The update: collation, chunked logprobs, the objective, the optimizer and the train step."""
