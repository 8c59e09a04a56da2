"""W17, GRPO replication: does a group's baseline keep what REINFORCE lets collapse?

    python -m selfreg.main --config=configs/w17.py --config.model.path=FOLDER
    python -m selfreg.main --config=configs/w17.py:7b --config.model.path=FOLDER
    python -m selfreg.plan --config=configs/w17.py:7b --devices=8xH100

The wave is both scales (3b, 7b) x seeds 7, 11, 17, 23 and 42 (`--config.seed=17`); one process
runs one chain. FOLDER holds the Hugging Face files of Qwen2.5-3B-Instruct or 7B-Instruct.

Planned, not measured, on 8 H100 with every completion at its limit: 17 GB a device and 0.25 hours a
chain at 3b, 40 GB and 0.6 hours at 7b; grading and snapshots come on top. One H200 holds 7b only
with LoRA. (The paper's chains took 5 hours on 8 GB200.)

The paper's (section 5.9, table 10 and appendix H): end-of-chain pass@1 of .207 [.157, .251] at 7B,
against REINFORCE's .118, and .068 at 3B, against REINFORCE with CARE's .095; the gap from peak to
end within a campaign stays at .17. It names 10 campaigns of 20 steps, 16 samples of one problem a
step, temperature 0.7, lr 1e-6, no KL, centered scores, no importance ratio, 4 alternatives a token,
50 training and 30 held-out problems. It leaves open, and this config chooses: whether centered
scores are divided by the group's spread ("normalized", says the text; the override string only
centers), Adam's moments and clipping, how tokens are weighed, the prompt, the lengths, the
precision, and which problems: here HumanEval's.
"""

from ml_collections import ConfigDict

from selfreg.config import default

SCALES = {"3b": "Qwen/Qwen2.5-3B-Instruct", "7b": "Qwen/Qwen2.5-7B-Instruct"}


def get_config(scale: str = "3b") -> ConfigDict:
    """The whole config of one scale, `3b` or `7b`."""
    if scale not in SCALES:
        raise ValueError(f"configs/w17.py:{scale}: the scale must be one of {', '.join(SCALES)}")
    config = default()
    config.name = f"w17-{scale}"
    config.campaigns = 10
    config.campaign_budget_steps = 20
    config.control_metric = "pass_rate"
    config.problems.train = "humaneval"
    config.problems.held_out = ""
    config.problems.train_count = 50
    config.problems.panel_count = 30
    config.problems.report_count = 30
    config.model.path = SCALES[scale]
    config.model.prompt = "chat"
    config.model.dtype = "bfloat16"
    config.model.remat = "layer"
    config.rollout.num_alter_tokens = 4
    config.rollout.max_prompt_tokens = 1024
    config.rollout.max_new_tokens = 1024
    config.rollout.max_sequences = 128
    config.learn.algorithm = "grpo"
    config.mesh.fsdp = 8
    config.evaluation.every_steps = 10
    config.evaluation.report_samples = 4
    return config
