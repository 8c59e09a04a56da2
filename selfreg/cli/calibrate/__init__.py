"""Calibrate the collapse predictor's thresholds on stored runs, and check a calibration."""
