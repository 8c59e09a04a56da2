"""W1v2: what does each module of CARE v2 contribute?

    python -m launch.sweep --config=configs/w1v2.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w1v2.py:tiny
    python -m selfreg.main --config=configs/w1v2.py --config.condition=A0 --config.seed=17

The paper (section 5.4, table 4) gives pass@1 at the end of three 50-step campaigns: A0 .225, A1
.217, A2 .157 and A3 .220, with 0, .20, .40 and 0 of the chains collapsed. All conditions take their
first campaign from A0.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.40
hours per chain, 20 chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    return paper.configure("w1v2", variant, campaigns=3, steps=50, tiny_steps=12)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains(
        "w1v2", variant, ("A0", "A1", "A2", "A3"), paper.FIVE_SEEDS, sharing=("A1", "A2", "A3")
    )
