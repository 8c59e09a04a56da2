"""A pilot with another model family: does it rise and collapse too?

    python -m launch.sweep --config=configs/gemma.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/gemma.py:tiny
    python -m selfreg.main --config=configs/gemma.py

The paper (section 7): pass@1 rises from 0 to .328 near step 15 and is 0 at step 20, in one campaign
with one unnamed seed.

Planned, not measured, on 8 H100 if every completion reaches its limit: 21 GB per device and 0.032
hours per chain, one chain. Grading and snapshots take additional time. FOLDER holds gemma-3-4b-it.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: gemma, tiny."""
    return paper.configure("gemma", variant, scales=("gemma",), campaigns=1, tiny_steps=20)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains("gemma", variant, ("A0",), (7,), scales=("gemma",))
