"""The embedded default: does a tiny policy rise and collapse, and does early stopping help?

    make run                                                                 # both conditions
    python -m selfreg.main --config=configs/tiny.py --config.condition=ES    # one chain

A 0.75M-parameter policy writes small Python programs; each is run against hidden tests. The setting
is the collapse-prone one: rewards {-1, +1}, one problem a step, large updates, no KL.

Expected on 2 CPU cores: A0 (a minute and a half) rises from .5 to .7 within 8 updates and falls to
.2 or less by 120; ES (under a minute) keeps .7 or more. At lr=4e-4 nothing collapses.
"""

from ml_collections import ConfigDict

from selfreg.run.config import default


def get_config() -> ConfigDict:
    """The whole config."""
    config = default()
    config.name = "tiny"
    config.campaigns = 3
    config.campaign_budget_steps = 40
    config.learn.reward_coding = "minus_one_one"
    config.optimizer.lr = 8e-4
    config.evaluation.every_steps = 4
    return config
