"""Table 2: from which checkpoints of figure 1's run can training continue?

    python -m launch.sweep --config=configs/table2.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/table2.py:tiny
    python -m selfreg.main --config=configs/table2.py --config.init_checkpoint=RUN_FOLDER:0.50

The paper (table 2) gives pass@1 before and after 20 more steps: .63 to .81 from step 50, .31 to .77
from step 100, and .41 to .00 from step 150. Run fig1 first, because its chain keeps these steps.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.06
hours per chain, three chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain, place_of

STEPS = (50, 100, 150)


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, tiny."""
    return paper.configure("table2", variant, campaigns=1, steps=20, tiny_steps=20)


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains, which need fig1's chain of the same variant."""
    name = paper.name_of("table2", variant or "7b")
    source = place_of(paper.name_of("fig1", variant or "7b"), "A0", 7)
    own = paper.TINY if variant == paper.TINY else ""
    return tuple(
        Chain(f"{name}-step{step}", "A0", 7, own, starts_from=f"{source}:0.{step}")
        for step in STEPS
    )
