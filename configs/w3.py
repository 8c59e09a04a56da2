"""W3: does CARE at 7B close the gap to a frozen 32B model?

    python -m launch.sweep --config=configs/w3.py:7b --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w3.py:tiny
    python -m selfreg.main --config=configs/w3.py:32b --config.seed=17

The paper (section 5.11, table 13): pass@1 is .123 after five naive campaigns (A0), .200 with CARE
(A3), and .377 for the frozen 32B model (n = 2). The C++ and Spanish panels at campaign ends give
Table 14's rows. A frozen chain is one campaign without updates, which measures its policy. A3 takes
its first campaign from A0.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.3
hours per chain at 7b, 6 chains; 26 GB and 0.01 hours at 32b, 2 chains. Grading and snapshots take
additional time. FOLDER holds Qwen2.5-7B-Instruct, or for `configs/w3.py:32b` Qwen2.5-32B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain

SCALES = ("7b", "32b")
FROZEN = {
    "campaigns": 1,
    "campaign_budget_steps": 0,
    "control_metric": "panel_pass_at_1",
    "model.lora_rank": 8,  # without adapters, which stay at zero, every weight would have moments
}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config that the chains share. Variants: 7b, 32b (frozen), tiny."""
    config = paper.configure("w3", variant, scales=SCALES, campaigns=5)
    config.evaluation.capabilities = (paper.CPP_PANEL, paper.OOD_PANEL)
    if variant == "32b":
        config.update_from_flattened_dict(FROZEN)
        config.mesh.fsdp, config.mesh.tensor = 1, 8  # decoding does not split weights over fsdp
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains: those that train at 7B, then the frozen ones at 32B."""
    trained = paper.chains(
        "w3", variant, ("A0", "A3"), paper.THREE_SEEDS, scales=SCALES, sharing=("A3",)
    )
    frozen = paper.chains(
        "w3", variant, ("A0",), paper.THREE_SEEDS[:2], scales=SCALES, changes=FROZEN
    )
    return (*(c for c in trained if "7b" in c.name), *(c for c in frozen if "32b" in c.name))
