"""W1: does the first gate, which halved the learning rate, help?

    python -m launch.sweep --config=configs/w1.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w1.py:tiny
    python -m selfreg.main --config=configs/w1.py --config.condition=A0 --config.seed=17

The paper's (table 17): .206 at the end of all four, with a collapse rate of a third; its four
identical rows cannot be. A2v1 halves the learning rate on a collapse, A3v1 revises by 0.7 beside
it. All take their first campaign from A0. C++ and Spanish panels at campaign ends are Table 14's
3-campaign rows.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.18 hours a
chain, 12 chains; grading and snapshots come on top. FOLDER holds Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny."""
    config = paper.configure("w1", variant, campaigns=3)
    config.evaluation.capabilities = (paper.CPP_PANEL, paper.OOD_PANEL)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains(
        "w1",
        variant,
        ("A0", "A1", "A2v1", "A3v1"),
        paper.THREE_SEEDS,
        sharing=("A1", "A2v1", "A3v1"),
    )
