"""W14: does a random search for (lr, KL), biased to the Pareto front of end and peak, do better?

    python -m launch.sweep --config=configs/w14.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w14.py:tiny
    python -m selfreg.main --config=configs/w14.py --config.condition=M1 --config.seed=17

The paper's (appendix I.2, table 9): .249, .187 and .167 at the end, mean .201 [.167, .249].

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.6 hours a
chain, 3 chains; grading and snapshots come on top. FOLDER holds Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny."""
    return paper.configure("w14", variant)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains("w14", variant, ("M1",), paper.THREE_SEEDS)
