"""W15: does a gate that also watches C++ do better than one that reads one number?

    python -m launch.sweep --config=configs/w15.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w15.py:tiny
    python -m selfreg.main --config=configs/w15.py --config.condition=A4 --config.seed=17

The paper's (appendix I.3, table 9): .151 [.060, .213] at the end, against A3's .138.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.6 hours a
chain, 3 chains; grading and snapshots come on top. FOLDER holds Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny."""
    config = paper.configure("w15", variant)
    config.evaluation.capabilities = (paper.CPP_PANEL,)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains("w15", variant, ("A4",), paper.THREE_SEEDS)
