"""W1: does the first version of the gate, which halves the learning rate, help?

    python -m launch.sweep --config=configs/w1.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w1.py:tiny
    python -m selfreg.main --config=configs/w1.py --config.condition=A0 --config.seed=17

The paper (table 17): pass@1 is .206 at the end of all four conditions, with a collapse rate of a
third. Four identical rows are implausible. A2v1 halves the learning rate on a collapse, and A3v1
also revises by 0.7. All conditions take their first campaign from A0. The C++ and Spanish panels at
campaign ends give Table 14's 3-campaign rows.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.18
hours per chain, 12 chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    config = paper.configure("w1", variant, campaigns=3)
    config.evaluation.capabilities = (paper.CPP_PANEL, paper.OOD_PANEL)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains(
        "w1",
        variant,
        ("A0", "A1", "A2v1", "A3v1"),
        paper.THREE_SEEDS,
        sharing=("A1", "A2v1", "A3v1"),
    )
