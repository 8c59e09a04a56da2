"""W6: what does rolling the peak forward do, without any gate?

    python -m launch.sweep --config=configs/w6.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w6.py:tiny
    python -m selfreg.main --config=configs/w6.py --config.condition=B1 --config.seed=7

The paper's (table 6): .259 at the end, one chain, its seed unnamed.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.6 hours a
chain, one chain; grading and snapshots come on top. FOLDER holds Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny."""
    return paper.configure("w6", variant)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains("w6", variant, ("B1",), (7,))
