"""Where should the control sit: in the update, within a campaign, or between campaigns?

    python -m launch.sweep --config=configs/comparison.py --jobs=2
    python -m selfreg.main --config=configs/comparison.py --config.condition=ROLLBACK
    python -m selfreg.analysis --runs=runs --out=runs

The embedded policy in the collapse-prone setting of configs/tiny.py: 5 campaigns of 20 steps, 5
seeds. Naive REINFORCE (A0), early stop between campaigns (ES), CARE v2 (A3), the calibrated
predictor with rollback within campaigns (ROLLBACK), GRPO, and GRPO with early stop. Beside each
rule that stops early lies EQ: naive chaining with as many updates in each campaign, so that what a
rule gains by training less is told apart from what it gains by choosing. Peaks are selected on one
panel (96 problems x 4) and reported on another (96 x 8).

About 1 CPU-minute a chain, 45 chains. docs/log.md has what came out.
"""

from ml_collections import ConfigDict

from configs import tiny
from selfreg.run.wave import Chain, place_of

SEEDS = (7, 11, 17, 23, 42)
NAME = "comparison"
CONDITIONS = ("A0", "ES", "A3", "ROLLBACK", "GRPO", "GRPO+ES")
GRPO = {"learn.algorithm": "grpo"}
MATCHED = {"ES": {}, "ROLLBACK": {}, "GRPO+ES": GRPO}


def get_config() -> ConfigDict:
    """What the chains share."""
    config = tiny.get_config()
    config.name = NAME
    config.campaigns = 5
    config.campaign_budget_steps = 20
    return config


def sweep() -> tuple[Chain, ...]:
    """The chains, seed by seed: every condition, then those with equal updates."""
    return tuple(chain for seed in SEEDS for chain in _of_seed(seed))


def _of_seed(seed: int) -> list[Chain]:
    equal = [
        Chain(
            f"{NAME}-equal-{condition}", "EQ", seed, changes=changes,
            matches=place_of(NAME, condition, seed),
        )
        for condition, changes in MATCHED.items()
    ]  # fmt: skip
    return [*(Chain(NAME, condition, seed) for condition in CONDITIONS), *equal]
