"""W6: what does peak roll-forward achieve without a gate?

    python -m launch.sweep --config=configs/w6.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w6.py:tiny
    python -m selfreg.main --config=configs/w6.py --config.condition=B1 --config.seed=7

The paper (table 6): pass@1 is .259 at the end, in one chain with an unnamed seed.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.6
hours per chain, one chain. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    return paper.configure("w6", variant)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains("w6", variant, ("B1",), (7,))
