"""A real LM on a CPU: does SmolLM2-135M-Instruct improve on easy problems, and does that last?

    make smollm2
    python -m selfreg.main --config=configs/smollm2.py --config.condition=ES --config.campaigns=3

The run is one 20-step campaign on 66 single-function Python problems from the package, in chat
format with the model's own tokenizer. Each panel has 32 other problems. The base model's pass@1 is
about .39.
"""

from ml_collections import ConfigDict

from selfreg.run.config import default


def get_config() -> ConfigDict:
    """Return the whole config."""
    config = default()
    config.name = "smollm2"
    config.campaigns = 1
    config.campaign_budget_steps = 20
    config.problems.train = "easy:train"
    config.problems.held_out = "easy:main"
    config.problems.panel_count = 32
    config.problems.report_count = 32
    config.model.path = "smollm2"
    config.model.prompt = "chat"
    config.rollout.problems_per_step = 2
    config.rollout.max_sequences = 128
    config.optimizer.lr = 5e-6
    config.evaluation.report_samples = 4
    return config
