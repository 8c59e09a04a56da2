"""Table 1: does a KL penalty prevent the collapse?

    python -m launch.sweep --config=configs/table1.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/table1.py:tiny
    python -m selfreg.main --config=configs/table1.py --config.learn.kl_coef=0.05

The paper's (table 1), ends of three 50-step campaigns: .06 .75 .22 without KL, .07 .10 .08 with
0.05, .00 .06 .00 with 0.01, 0.02, 0.03 by campaign. The penalty's anchor is each campaign's start,
as in the paper; `--config.learn.kl_reference=base` is the other choice. One chain each, their seed
unnamed.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device, 40 with EWC,
and 0.40 hours a chain, three chains; grading and snapshots come on top. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import paper
from selfreg.wave import Chain

VARIANTS: dict[str, dict[str, Any]] = {
    "naive": {},
    "kl": {"learn.kl_coef": 0.05},
    "adaptive": {"learn.kl_schedule": (0.01, 0.02, 0.03)},
}


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny."""
    return paper.configure("table1", variant, campaigns=3, steps=50, tiny_steps=12)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains: no KL, a constant weight, and one that grows by campaign."""
    return tuple(
        chain
        for word, changes in VARIANTS.items()
        for chain in paper.chains(
            "table1", variant, ("A0",), (7,), suffix=f"-{word}", changes=changes
        )
    )
