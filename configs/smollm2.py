"""A real LM on a CPU: does SmolLM2-135M-Instruct rise on easy problems, and does it stay up?

    make smollm2
    python -m selfreg.main --config=configs/smollm2.py --config.condition=ES --config.campaigns=3

One 20-step campaign on 66 one-function Python problems that ship with the package, in chat form,
with the model's own tokenizer; panels of 32 others each. Base pass@1 is about .39.
"""

from ml_collections import ConfigDict

from selfreg.run.config import default


def get_config() -> ConfigDict:
    """The whole config."""
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
