"""W18: does early stop (ES) improve on GRPO?

    python -m launch.sweep --config=configs/w18.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w18.py:tiny
    python -m selfreg.main --config=configs/w18.py --config.condition=ES --config.seed=17

The paper (section 5.10, table 12) gives pass@1 at the end and that of naive GRPO with the same
seed: .000 and .113, .281 and .254, .228 and .191. The mean difference is -.016 [-.113, .037]. Each
chain takes its first campaign from w17's A0 at 7b, so run those first.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and at most
0.6 hours per chain, 3 chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from dataclasses import replace

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain, place_of


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    config = paper.configure("w18", variant)
    paper.use_grpo(config)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains, which need w17's A0 chains at 7b of the same variant."""
    source = "w17-7b-tiny" if variant == paper.TINY else "w17-7b"
    return tuple(
        replace(chain, shares=place_of(source, "A0", chain.seed))
        for chain in paper.chains("w18", variant, ("ES",), paper.THREE_SEEDS)
    )
