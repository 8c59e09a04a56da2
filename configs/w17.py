"""W17, GRPO replication: does the group baseline prevent the collapse seen with REINFORCE?

    python -m launch.sweep --config=configs/w17.py:7b --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w17.py:tiny
    python -m selfreg.main --config=configs/w17.py:7b --config.condition=A3 --config.seed=17

The wave has two scales. A model folder holds one of them, so run `configs/w17.py:3b` and `:7b`
separately.

The paper (section 5.9, table 10 and appendix H): at 7B, pass@1 at the end of the chain is .207
[.157, .251], and REINFORCE's is .118. At 3B it is .068, and that of REINFORCE with CARE is .095.
GRPO with CARE ends at .204 (7B) and .047 (3B). The gap from peak to end within a campaign stays at
.17. A3 takes its first campaign from A0.

Planned, not measured, on 8 H100 if every completion reaches its limit: 15 GB per device and 0.24
hours per chain at 3b, 36 GB and 0.6 hours at 7b, 10 chains each. Grading and snapshots take
additional time. One H200 has enough memory for 7b with 8-bit moments or with LoRA. (The paper's
chains took 5 hours on 8 GB200.)
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain

SCALES = ("3b", "7b")


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains of a scale share. Variants: 3b, 7b, tiny."""
    config = paper.configure("w17", variant, scales=SCALES)
    paper.use_grpo(config)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains: those of both scales unless the variant is one of them."""
    return paper.chains(
        "w17", variant, ("A0", "A3"), paper.FIVE_SEEDS, scales=SCALES, sharing=("A3",)
    )
