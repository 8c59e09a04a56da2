"""W12: how does early stop with peak roll-forward (ES) do at 3B?

    python -m launch.sweep --config=configs/w12.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w12.py:tiny
    python -m selfreg.main --config=configs/w12.py --config.condition=ES --config.seed=17

The paper (abstract and section 1): pass@1 is .082 at the end (n = 5), below CARE v2's .095.

Planned, not measured, on 8 H100 if every completion reaches its limit: 15 GB per device and at most
0.24 hours per chain, 5 chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-3B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 3b, tiny."""
    return paper.configure("w12", variant, scales=("3b",))


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains("w12", variant, ("ES",), paper.FIVE_SEEDS, scales=("3b",))
