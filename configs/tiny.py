"""The embedded default: does a tiny policy rise and collapse, and does early stopping help?

    make run                                                                 # both conditions
    python -m selfreg.main --config=configs/tiny.py --config.condition=ES    # one chain

A 0.75M-parameter policy writes small Python programs; each is run against hidden tests. The setting
is the collapse-prone one: rewards {-1, +1}, one problem a step, large updates, no KL. A0 takes about
a minute and a half on 2 CPU cores and is expected to rise from .5 to .65 within 4 updates and to fall to 0
within the second campaign; ES, under a minute, to keep what it gained and reach .75. At lr=4e-4 nothing
collapses.
"""

from ml_collections import ConfigDict

from selfreg.config import default


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
