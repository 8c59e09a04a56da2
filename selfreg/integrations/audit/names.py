"""Names that trainers use for rewards, steps and leading indicators."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence

# Names for the mean reward of a step's own samples, in this order: verl and ROLL; TRL, OpenRLHF and
# W&B; slime, SkyRL, tinker, NeMo-RL, MLX, Stable-Baselines; then selfreg.
REWARDS = (
    "critic/score/mean", "critic/rewards/mean", "train/reward", "reward", "rollout/raw_reward",
    "reward/avg_raw_reward", "env/all/reward/total", "train/env/all/reward/total",
    "Avg Total Reward", "Avg Reward", "train/avg_reward", "train/total_reward", "reward/mean",
    "reward_mean", "rewards/mean", "train/reward_mean", "mean_reward", "avg_reward",
    "average_reward", "train_total_rewards_mean", "total_rewards_mean", "Total Rewards",
    "Total rewards mean", "rollout/ep_rew_mean", "ep_rew_mean", "rollout/reward",
    "rollout/rewards", "rollout/score/mean", "train/rewards", "train/mean_reward", "train/score",
    "task_reward/avg", "final_reward/avg", "objective/scores", "objective/scores_mean",
    "env/reward_mean", "ppo/mean_scores", "Reward", "rm", "env_reward", "episode_reward",
    "episode_reward_mean", "env_runners/episode_return_mean", "episode_return_mean",
    "charts/episodic_return", "episode_return", "rewards", "score", "pass_rate",
    "train/pass_rate", "accuracy_reward", "r",
)  # fmt: skip
STEPS = (
    "step", "global_step", "train/global_step", "training/global_step", "trainer/global_step",
    "global_step/max_steps", "current_steps", "Step", "_step", "iteration",
    "train_iteration", "rollout/step", "train/step", "progress/batch", "time/iterations",
    "time/total_timesteps", "total_timesteps", "timesteps_total", "training_iteration", "iter",
    "it", "update", "bars",
)  # fmt: skip
EPOCHS = ("epoch", "train/epoch", "training/epoch", "Epoch")
LOSSES = (
    "loss", "train/loss", "train_loss", "actor/loss", "actor/pg_loss", "policy_loss",
    "train/policy_loss", "act_loss", "pg_loss", "train/pg_loss", "Loss", "loss/mean",
    "policy/loss",
)  # fmt: skip
# Metrics that may show a collapse first -> the names that trainers use for them.
INDICATORS = {
    "entropy": (
        "entropy", "actor/entropy", "actor/entropy_loss", "policy/entropy_avg",
        "policy/policy_entropy", "optim/entropy", "entropy_loss", "ent_loss", "Entropy",
        "rollout/entropy", "policy_entropy", "train/entropy_loss", "entropy/all/mean",
        "entropy/avg",
    ),
    "KL": (
        "kl", "objective/kl", "actor/kl_loss", "actor/ppo_kl", "approx_kl", "k3_kl", "kl_loss",
        "ppo_kl", "optim/kl_sample_train_v1", "KL Divergence", "Generation KL Error",
        "Mismatch KL", "policy/policy_kl", "mean_kl", "kl_divergence",
    ),
    "gradient norm": (
        "grad_norm", "actor/grad_norm", "Grad. Norm", "policy/raw_grad_norm", "actor_grad_norm",
        "gradient_norm", "optim/grad_norm", "grad_norm/avg",
    ),
    "length": (
        "completions/mean_length", "response_length/mean", "response_length", "completion_length",
        "completions/mean_terminated_length", "rollout/response_lengths",
        "rollout/response_len/mean", "generate/avg_num_tokens", "gen_len", "glen",
        "Mean Generation Length", "env/all/ac_tokens_per_turn", "rollout/ep_len_mean",
        "ep_len_mean", "average_generated_tokens", "Avg tokens", "l", "Seq. Length",
    ),
    "cut at the limit": (
        "completions/clipped_ratio", "response_length/clip_ratio", "truncated", "clip_ratio",
        "rollout/truncated_ratio", "rollout/truncated", "hit_max_tokens_ratio", "Hit limit",
        "Truncation", "truncated_ratio",
    ),
}  # fmt: skip
# Components of a summed reward: rewards/NAME/mean in TRL, rewards/NAME in older versions.
_PART = re.compile(r"(?:.*/)?rewards?/([^/]+)(?:/mean)?$")
_NO_PART = ("mean", "std", "max", "min", "total", "margins", "accuracies", "chosen", "rejected")
_REWARD = re.compile(
    r"(?i)(?:^|[/_. ])(?:mean_?|avg_?|average_?)?(?:rewards?|returns?|scores?)"
    r"(?:[/_ ](?:mean|avg|total))?$"
)
_OTHER = re.compile(
    r"(?i)(?:^|[/_.])(?:eval|val|valid|validation|test|std|var|min|max|advantages?)(?:$|[/_.-])"
)
_PREFIXES = (
    "", "train/", "trainer/", "metrics/", "ppo_actor/update/", "grpo_actor/update/", "ppo_actor/",
    "grpo_actor/",
)  # fmt: skip


def find(names: Collection[str], wanted: Iterable[str]) -> str | None:
    """Return the first wanted name that exists, alone or with a prefix such as train/."""
    for name in wanted:
        for prefix in _PREFIXES:
            if prefix + name in names:
                return prefix + name
    return None


def find_reward(names: Sequence[str]) -> str | None:
    """Return the mean reward's name: a known name, or the only name that looks like a reward."""
    known = find(names, REWARDS)
    if known is not None:
        return known
    like = [name for name in names if _REWARD.search(name) and not _OTHER.search(name)]
    return like[0] if len(like) == 1 else None


def parts_of(reward: str, names: Iterable[str]) -> list[str]:
    """Return the logged components of a summed reward."""
    return [
        name
        for name in names
        if name != reward
        and (found := _PART.fullmatch(name))
        and found[1] not in _NO_PART
        and not _OTHER.search(name)
        and (name.startswith(("rewards/", "train/rewards/")))
    ]


def nearest(names: Iterable[str], wanted: str) -> list[str]:
    """Sort names by their similarity to a wanted name, most similar first."""

    def distance(name: str) -> float:
        last = name.rpartition("/")[2]
        ratios = [
            difflib.SequenceMatcher(None, a.lower(), wanted.lower()).ratio() for a in (name, last)
        ]
        within = wanted.lower() in name.lower() or name.lower() in wanted.lower()
        return -max(ratios) - 0.3 * within

    return sorted(names, key=lambda name: (distance(name), name))
