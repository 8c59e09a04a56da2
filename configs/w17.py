"""W17, GRPO replication: does a group's baseline keep what REINFORCE lets collapse?

    python -m launch.sweep --config=configs/w17.py:7b --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w17.py:tiny
    python -m selfreg.main --config=configs/w17.py:7b --config.condition=A3 --config.seed=17

The wave is both scales; a folder holds one of them, so `configs/w17.py:3b` and `:7b` run them one
by one.

The paper's (section 5.9, table 10 and appendix H): end-of-chain pass@1 of .207 [.157, .251] at 7B,
against REINFORCE's .118, and .068 at 3B, against REINFORCE with CARE's .095; with CARE .204 and
.047. The gap from peak to end within a campaign stays at .17. A3 takes its first campaign from A0.

Planned, not measured, on 8 H100 with every completion at its limit: 15 GB a device and 0.24 hours a
chain at 3b, 36 GB and 0.6 hours at 7b, 10 chains each; grading and snapshots come on top. One H200
holds 7b with 8-bit moments, or with LoRA. (The paper's chains took 5 hours on 8 GB200.)
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.wave import Chain

SCALES = ("3b", "7b")


def get_config(variant: str = "") -> ConfigDict:
    """What the chains of a scale share; variants: 3b, 7b, tiny."""
    config = paper.configure("w17", variant, scales=SCALES)
    paper.use_grpo(config)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains, of both scales unless the variant is one of them."""
    return paper.chains(
        "w17", variant, ("A0", "A3"), paper.FIVE_SEEDS, scales=SCALES, sharing=("A3",)
    )
