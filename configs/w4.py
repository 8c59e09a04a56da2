"""W4: the headline at 7B: do memory and a gate between campaigns keep what naive chaining loses?

    python -m launch.sweep --config=configs/w4.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w4.py:tiny
    python -m selfreg.main --config=configs/w4.py --config.condition=A0 --config.seed=17

The paper's (section 5.6, table 6): .118 [.052, .183] at the end of A0's ten campaigns, .138 [.028,
.273] of A3's; tables 7 to 9, 11 and 16 and figure 3 read these chains too, and table 15 their C++
panel. A3 takes its first campaign from A0: the two do not differ before it ends.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.6 hours a
chain, 10 chains; grading and snapshots come on top. (The paper's took 5 on 8 GB200.) FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny."""
    config = paper.configure("w4", variant)
    config.evaluation.capabilities = (paper.CPP_PANEL,)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains."""
    return paper.chains("w4", variant, ("A0", "A3"), paper.FIVE_SEEDS, sharing=("A3",))
