"""W4, main result at 7B: do memory and a gate between campaigns keep what naive chaining loses?

    python -m launch.sweep --config=configs/w4.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w4.py:tiny
    python -m selfreg.main --config=configs/w4.py --config.condition=A0 --config.seed=17

The paper (section 5.6, table 6): pass@1 after ten campaigns is .118 [.052, .183] for A0 and .138
[.028, .273] for A3. Tables 7 to 9, 11 and 16 and figure 3 use these chains too, and table 15 uses
their C++ panel. A3 takes its first campaign from A0, because the two do not differ before it ends.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.6
hours per chain, 10 chains. Grading and snapshots take additional time. (The paper's chains took 5
hours on 8 GB200.) FOLDER holds Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    config = paper.configure("w4", variant)
    config.evaluation.capabilities = (paper.CPP_PANEL,)
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains."""
    return paper.chains("w4", variant, ("A0", "A3"), paper.FIVE_SEEDS, sharing=("A3",))
