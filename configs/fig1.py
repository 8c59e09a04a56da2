"""Figure 1: does naive REINFORCE rise and then fall in one long run?

    python -m launch.sweep --config=configs/fig1.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/fig1.py:tiny
    python -m selfreg.main --config=configs/fig1.py

The paper (figure 1): pass@1 rises from .25 to .81 by step 50 and is near 0 by step 200, in one run
with an unnamed seed. Here the chain is one campaign of 200 steps. It keeps steps 50, 100, 150 and
200 for table2.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.51
hours per chain, one chain. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the chain's config. Variants: 7b, tiny."""
    config = paper.configure("fig1", variant, campaigns=1, steps=200, tiny_steps=200)
    config.checkpoint.keep_every_steps = 50  # table2 starts from them
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chain."""
    return paper.chains("fig1", variant, ("A0",), (7,))
