"""Keeps `python -m selfreg.models.pretrain` working."""
