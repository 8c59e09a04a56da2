"""The collapse predictor's thresholds, made from stored runs and tried on them."""
