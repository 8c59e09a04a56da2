"""W7, main result at 3B: does CARE help where naive chaining is fragile?

    python -m launch.sweep --config=configs/w7.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w7.py:tiny
    python -m selfreg.main --config=configs/w7.py --config.condition=A0 --config.seed=17

The paper (section 5.6, table 6): pass@1 after ten campaigns is .049 [.021, .095] for A0 and .095
[.063, .127] for A3, a difference of +.046 paired by seed. A3 takes its first campaign from A0.

Planned, not measured, on 8 H100 if every completion reaches its limit: 15 GB per device and 0.24
hours per chain, 10 chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-3B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 3b, tiny."""
    return paper.configure("w7", variant, scales=("3b",))


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains(
        "w7", variant, ("A0", "A3"), paper.FIVE_SEEDS, scales=("3b",), sharing=("A3",)
    )
