"""The embedded default: does a tiny policy rise and collapse, and does early stop help?

    make run                                                                 # both conditions
    python -m selfreg.main --config=configs/tiny.py --config.condition=ES    # one chain

A policy with 0.75M parameters writes small Python programs, and each program is run against hidden
tests. The setting is prone to collapse: rewards {-1, +1}, one problem per step, large updates, no
KL.

Expected on 2 CPU cores: A0 (a minute and a half) rises from .5 to .7 within 8 updates and falls to
.2 or less by update 120. ES (under a minute) keeps .7 or more. At lr=4e-4 nothing collapses.
"""

from ml_collections import ConfigDict

from selfreg.run.config import default


def get_config() -> ConfigDict:
    """Return the whole config."""
    config = default()
    config.name = "tiny"
    config.campaigns = 3
    config.campaign_budget_steps = 40
    config.learn.reward_coding = "minus_one_one"
    config.optimizer.lr = 8e-4
    config.evaluation.every_steps = 4
    return config
