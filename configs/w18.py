"""W18: does early stop (ES) add to GRPO?

    python -m launch.sweep --config=configs/w18.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w18.py:tiny
    python -m selfreg.main --config=configs/w18.py --config.condition=ES --config.seed=17

The paper's (section 5.10, table 12), ends against naive GRPO's of the same seed: .000 and .113,
.281 and .254, .228 and .191; mean difference -.016 [-.113, .037]. Each chain takes its first
campaign from w17's A0 at 7b: run those first.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.6 at most
hours a chain, 3 chains; grading and snapshots come on top. FOLDER holds Qwen2.5-7B-Instruct.
"""

from dataclasses import replace

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain, place_of


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny."""
    config = paper.configure("w18", variant)
    paper.use_grpo(config)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains; w17's A0 at 7b of the same variant comes first."""
    source = "w17-7b-tiny" if variant == paper.TINY else "w17-7b"
    return tuple(
        replace(chain, shares=place_of(source, "A0", chain.seed))
        for chain in paper.chains("w18", variant, ("ES",), paper.THREE_SEEDS)
    )
