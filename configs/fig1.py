"""Figure 1: does naive REINFORCE rise, and then fall, in one long run?

    python -m launch.sweep --config=configs/fig1.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/fig1.py:tiny
    python -m selfreg.main --config=configs/fig1.py

The paper's (figure 1): pass@1 rises from .25 to .81 by step 50 and is near 0 by step 200; one run,
its seed unnamed. One campaign of 200 steps; steps 50, 100, 150 and 200 are kept for table2.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.51 hours a
chain, one chain; grading and snapshots come on top. FOLDER holds Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chain is made of; variants: 7b, tiny."""
    config = paper.configure("fig1", variant, campaigns=1, steps=200, tiny_steps=200)
    config.checkpoint.keep_every_steps = 50  # table2 starts from them
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chain."""
    return paper.chains("fig1", variant, ("A0",), (7,))
