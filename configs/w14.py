"""W14: does a random search for (lr, KL) near the Pareto front of end and peak do better?

    python -m launch.sweep --config=configs/w14.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w14.py:tiny
    python -m selfreg.main --config=configs/w14.py --config.condition=M1 --config.seed=17

The paper (appendix I.2, table 9): pass@1 is .249, .187 and .167 at the ends, with mean .201
[.167, .249].

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.6
hours per chain, 3 chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    return paper.configure("w14", variant)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains("w14", variant, ("M1",), paper.THREE_SEEDS)
