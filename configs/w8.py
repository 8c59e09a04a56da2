"""W8: early stop with peak roll-forward (ES) at 7B.

    python -m launch.sweep --config=configs/w8.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w8.py:tiny
    python -m selfreg.main --config=configs/w8.py --config.condition=ES --config.seed=17

The paper's (table 9): .222 [.141, .280] at the end. Its 51 steps a chain contradict its own clamp
at 8 and appendix G's mean of 11 a campaign; read the steps that these chains make.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.6 at most
hours a chain, 3 chains; grading and snapshots come on top. FOLDER holds Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny."""
    return paper.configure("w8", variant)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains("w8", variant, ("ES",), paper.THREE_SEEDS)
