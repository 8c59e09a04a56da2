"""W8: how does early stop with peak roll-forward (ES) do at 7B?

    python -m launch.sweep --config=configs/w8.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w8.py:tiny
    python -m selfreg.main --config=configs/w8.py --config.condition=ES --config.seed=17

The paper (table 9): pass@1 is .222 [.141, .280] at the end. Its 51 steps per chain contradict its
own minimum of 8 steps per campaign and appendix G's mean of 11. Use the number of steps that these
chains make.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and at most
0.6 hours per chain, 3 chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    return paper.configure("w8", variant)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains("w8", variant, ("ES",), paper.THREE_SEEDS)
