"""Where should the control act: in the update, within a campaign, or between campaigns?

    python -m launch.sweep --config=configs/comparison.py --jobs=2
    python -m selfreg.main --config=configs/comparison.py --config.condition=ROLLBACK
    python -m selfreg.analysis --runs=runs --out=runs

This trains the embedded policy in the collapse-prone setting of configs/tiny.py, in 5 campaigns of
20 steps with 5 seeds. The conditions are naive REINFORCE (A0), early stop between campaigns (ES),
CARE v2 (A3), the calibrated predictor with rollback within campaigns (ROLLBACK), GRPO, and GRPO
with early stop. Each rule that stops early has a matched condition EQ: naive chaining with the same
number of updates in each campaign. EQ separates the gain from training less from the gain from
choosing well. Peaks are selected on one panel (96 problems x 4) and reported on another (96 x 8).

Each of the 45 chains takes about 1 CPU-minute. docs/log.md has the results.
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
    """Return the config that the chains share."""
    config = tiny.get_config()
    config.name = NAME
    config.campaigns = 5
    config.campaign_budget_steps = 20
    return config


def sweep() -> tuple[Chain, ...]:
    """Return the chains by seed: every condition, then those with equal updates."""
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
