"""W12: early stop with peak roll-forward (ES) at 3B.

    python -m launch.sweep --config=configs/w12.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w12.py:tiny
    python -m selfreg.main --config=configs/w12.py --config.condition=ES --config.seed=17

The paper's (abstract and section 1): .082 at the end, n = 5, below CARE v2's .095.

Planned, not measured, on 8 H100 with every completion at its limit: 15 GB a device and 0.24 at most
hours a chain, 5 chains; grading and snapshots come on top. FOLDER holds Qwen2.5-3B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 3b, tiny."""
    return paper.configure("w12", variant, scales=("3b",))


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains("w12", variant, ("ES",), paper.FIVE_SEEDS, scales=("3b",))
