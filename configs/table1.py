"""Table 1: does a KL penalty prevent the collapse?

    python -m launch.sweep --config=configs/table1.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/table1.py:tiny
    python -m selfreg.main --config=configs/table1.py --config.learn.kl_coef=0.05

The paper (table 1) gives pass@1 at the ends of three 50-step campaigns: .06 .75 .22 without KL,
.07 .10 .08 with weight 0.05, and .00 .06 .00 with weights 0.01, 0.02 and 0.03 by campaign. It ran
one chain each, with an unnamed seed. As in the paper, the penalty's reference is each campaign's
start. `--config.learn.kl_reference=base` is the alternative.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device (40 GB
with EWC) and 0.40 hours per chain, three chains. Grading and snapshots take additional time. FOLDER
holds Qwen2.5-7B-Instruct.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain

VARIANTS: dict[str, dict[str, Any]] = {
    "naive": {},
    "kl": {"learn.kl_coef": 0.05},
    "adaptive": {"learn.kl_schedule": (0.01, 0.02, 0.03)},
}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    return paper.configure("table1", variant, campaigns=3, steps=50, tiny_steps=12)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains: no KL, a constant weight, and one that grows by campaign."""
    return tuple(
        chain
        for word, changes in VARIANTS.items()
        for chain in paper.chains(
            "table1", variant, ("A0",), (7,), suffix=f"-{word}", changes=changes
        )
    )
