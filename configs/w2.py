"""W2: how does CARE v1 stand beside simpler ways to choose the next campaign, in two languages?

    python -m launch.sweep --config=configs/w2.py --config.model.path=FOLDER
    python -m launch.sweep --config=configs/w2.py:tiny
    python -m selfreg.main --config=configs/w2.py --config.condition=B0 --config.seed=17

The paper's (table 5), ends of three campaigns: Python .242 naive (B0), .004 best checkpoint (B1),
.217 random search (B2), .152 LLM search (B3), .121 CARE v1 (B4); C++ .166, .188, .220, .158, .182.
It took Python's B0 and B4 from W1; here they are run. B1 and B4 take their first campaign from B0.

B3 asks the model that `--config.control.llm_url` serves; the tiny variant asks on port 30000 of
this machine, and where nobody answers, B3 says so and draws as B2 does. The C++ half learns from
procedural problems: HumanEval has none.

Planned, not measured, on 8 H100 with every completion at its limit: 36 GB a device and 0.18 hours a
chain, 30 chains; grading and snapshots come on top. FOLDER holds Qwen2.5-7B-Instruct.
"""

from ml_collections import ConfigDict

from configs import paper
from selfreg.run.wave import Chain

CONDITIONS = ("B0", "B1", "B2", "B3", "B4")
LANGUAGES = {"python": {}, "cpp": paper.CPP}


def get_config(variant: str = "") -> ConfigDict:
    """What the chains share; variants: 7b, tiny. It is the Python half."""
    config = paper.configure("w2", variant, campaigns=3)
    if variant == paper.TINY:
        config.control.llm_url = "http://127.0.0.1:30000/v1"
    return config


def sweep(variant: str = "") -> tuple[Chain, ...]:
    """The wave's chains: Python's, then those that learn from C++ problems."""
    return tuple(
        chain
        for language, changes in LANGUAGES.items()
        for chain in paper.chains(
            "w2", variant, CONDITIONS, paper.THREE_SEEDS, suffix=f"-{language}", changes=changes,
            sharing=("B1", "B4"),
        )
    )  # fmt: skip
