"""The embedded default: does a tiny policy rise and collapse, and does early stopping help?

    make run                                                                 # both conditions
    python -m selfreg.main --config=configs/tiny.py --config.condition=ES    # one chain

A 0.75M-parameter policy writes small Python programs; each is run against hidden tests. The setting
is the collapse-prone one: rewards {-1, +1}, one problem a step, no KL.
"""

from ml_collections import ConfigDict

from selfreg.config import default


def get_config() -> ConfigDict:
    """The whole config."""
    config = default()
    config.name = "tiny"
    config.campaigns = 3
    config.campaign_budget_steps = 60
    config.learn.reward_coding = "minus_one_one"
    config.optimizer.lr = 4e-4
    config.evaluation.every_steps = 5
    return config
