"""Keep `python -m selfreg.models.pretrain` working."""
