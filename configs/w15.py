"""W15: does a gate that also watches C++ do better than one that watches a single metric?

    python -m launch.sweep --config=configs/w15.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w15.py:tiny
    python -m selfreg.main --config=configs/w15.py --config.condition=A4 --config.seed=17

The paper (appendix I.3, table 9): pass@1 is .151 [.060, .213] at the end, and A3's is .138.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.6
hours per chain, 3 chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    config = paper.configure("w15", variant)
    config.evaluation.capabilities = (paper.CPP_PANEL,)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains("w15", variant, ("A4",), paper.THREE_SEEDS)
