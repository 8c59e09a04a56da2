"""Study, detect and prevent rise-and-collapse in LLM self-training."""
