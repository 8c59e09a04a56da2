"""W1v2: which module of CARE v2 does what?

    python -m launch.sweep --config=configs/w1v2.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w1v2.py:tiny
    python -m selfreg.main --config=configs/w1v2.py --config.condition=A0 --config.seed=17

The paper's (section 5.4, table 4), ends of three 50-step campaigns: A0 .225, A1 .217, A2 .157, A3
.220, with 0, .20, .40 and 0 of the chains collapsed. All take their first campaign from A0.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.40 hours a
chain, 20 chains; grading and snapshots come on top. FOLDER holds Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny."""
    return paper.configure("w1v2", variant, campaigns=3, steps=50, tiny_steps=12)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains(
        "w1v2", variant, ("A0", "A1", "A2", "A3"), paper.FIVE_SEEDS, sharing=("A1", "A2", "A3")
    )
