"""A cross-family pilot: does another model rise and collapse too?

    python -m launch.sweep --config=configs/gemma.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/gemma.py:tiny
    python -m selfreg.main --config=configs/gemma.py

The paper's (section 7): pass@1 from 0 to .328 near step 15, and 0 at step 20; one seed, unnamed,
one campaign.

Planned, not measured, on 8 H100 with every completion at its limit: 21 GB a device and 0.032 hours
a chain, one chain; grading and snapshots come on top. FOLDER holds gemma-3-4b-it.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: gemma, tiny."""
    return paper.configure("gemma", variant, scales=("gemma",), campaigns=1, tiny_steps=20)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains("gemma", variant, ("A0",), (7,), scales=("gemma",))
