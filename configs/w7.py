"""W7: the headline at 3B, where naive chaining is fragile.

    python -m launch.sweep --config=configs/w7.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w7.py:tiny
    python -m selfreg.main --config=configs/w7.py --config.condition=A0 --config.seed=17

The paper's (section 5.6, table 6): .049 [.021, .095] at the end of A0's ten campaigns, .095 [.063,
.127] of A3's, +.046 paired by seed. A3 takes its first campaign from A0.

Planned, not measured, on 8 H100 with every completion at its limit: 15 GB a device and 0.24 hours a
chain, 10 chains; grading and snapshots come on top. FOLDER holds Qwen2.5-3B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 3b, tiny."""
    return paper.configure("w7", variant, scales=("3b",))


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains(
        "w7", variant, ("A0", "A3"), paper.FIVE_SEEDS, scales=("3b",), sharing=("A3",)
    )
