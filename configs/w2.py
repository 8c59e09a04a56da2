"""W2: how does CARE v1 compare with simpler ways to choose the next campaign, in two languages?

    python -m launch.sweep --config=configs/w2.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w2.py:tiny
    python -m selfreg.main --config=configs/w2.py --config.condition=B0 --config.seed=17

The paper (table 5) gives pass@1 at the end of three campaigns. Python: .242 naive (B0), .004 best
checkpoint (B1), .217 random search (B2), .152 LLM search (B3) and .121 CARE v1 (B4). C++: .166,
.188, .220, .158 and .182. The paper took Python's B0 and B4 from W1, but here they are run. B1 and
B4 take their first campaign from B0.

B3 asks the model at `--config.control.llm_url`. The tiny variant asks at port 30000 of this
machine. If no model answers, B3 records that and draws as B2 does. The C++ half trains on
procedural problems, because HumanEval has no C++ problems.

Planned, not measured, on 8 H100 if every completion reaches its limit: 36 GB per device and 0.18
hours per chain, 30 chains. Grading and snapshots take additional time. FOLDER holds
Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain

CONDITIONS = ("B0", "B1", "B2", "B3", "B4")
LANGUAGES = {"python": {}, "cpp": paper.CPP}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of the Python half. Variants: 7b, tiny."""
    config = paper.configure("w2", variant, campaigns=3)
    if variant == paper.TINY:
        config.control.llm_url = "http://127.0.0.1:30000/v1"
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """Return the wave's chains: those of Python, then those of C++."""
    return tuple(
        chain
        for language, changes in LANGUAGES.items()
        for chain in paper.chains(
            "w2", variant, CONDITIONS, paper.THREE_SEEDS, suffix=f"-{language}", changes=changes,
            sharing=("B1", "B4"),
        )
    )  # fmt: skip
