"""Invented values in the formats of trainers' logs."""

import json

import numpy as np


def rates(levels, samples=64, seed=0):
    """Draw means of zeros and ones, one per step."""
    rng = np.random.default_rng(seed)
    return rng.binomial(samples, np.asarray(levels)) / samples


def lines(rows):
    """Format rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def verl(values, first=1):
    """Format as verl's LocalLogger with Ray's prefix, the config and another printed dict."""
    config = (
        "(TaskRunner pid=71) {'actor_rollout_ref': {'actor': {'ppo_epochs': 1},\n"
        "(TaskRunner pid=71)                        'rollout': {'gpu_memory': 0.5,\n"
        "(TaskRunner pid=71)                                    'log_prob': {'n': 3},\n"
        "(TaskRunner pid=71)                                    'n': 8,\n"
        "(TaskRunner pid=71)                                    'val_kwargs': {'n': 1}}},\n"
        "(TaskRunner pid=71)  'data': {'train_batch_size': 8, 'val_batch_size': None}}\n"
    )
    noise = "{'reward': 0.9, 'a dict': 'that is printed too'}\n"
    return config + "".join(
        f"{noise}(TaskRunner pid=71) step:{first + i} - global_seqlen/mean:4096.5 - "
        f"actor/entropy:{1.5 - i / 100} - actor/kl_loss:np.float64(0.0{i % 10}) - "
        f"actor/grad_norm:0.25 - critic/score/mean:{v} - critic/score/max:1.0 - "
        f"critic/score/min:0.0 - response_length/mean:300.0 - response_length/clip_ratio:0.0 - "
        f"val-core/set/acc/mean@1:0.9\n"
        for i, v in enumerate(values)
    )


def verl_rounded(values):
    """Format as older versions of verl print: three decimals, even for steps."""
    return "".join(
        f"(main_task pid=5) step:{i} - actor/entropy_loss:0.317 - training/global_step:{i}.000 - "
        f"critic/score/mean:{v:.3f} - critic/rewards/mean:{v:.3f}\n"
        for i, v in enumerate(values)
    )


def openrlhf(values):
    return "".join(
        f"(PPOTrainer pid=1) 2026-01-02 03:04:05 INFO ppo_trainer.py:547 ✨ Global step {i + 1}: "
        f"{{'policy_loss': 0.02, 'reward': {v}, 'kl': tensor(0.01, device='cuda:0'), "
        f"'response_length': 310.5}}\n"
        for i, v in enumerate(values)
    )


def openrlhf_bars(values):
    """Format as one progress bar per step, redrawn after each batch."""
    return "\n".join(
        "\r".join(
            f"Train epoch [1/1]: {25 * k}%|###   | {k}/4 [00:0{k}<00:03,  1.2s/it, act_loss=0.01, "
            f"reward={v}, return=0.2, gen_len=300, kl=0.001, act_lr=5e-7]"
            for k in range(1, 5)
        )
        for v in values
    )


def slime(values):
    head = "[2026-01-02 03:04:05] data.py:88 - "
    config = (
        "  rollout_batch_size ............................. 8\n  n_samples_per_prompt ....... 8\n"
    )
    return config + "".join(
        f"{head}rollout {i}: {{'rollout/response_lengths': 310.5, 'rollout/raw_reward': {v}, "
        f"'rollout/truncated': 0.1, 'rollout/log_probs': -0.3}}\n"
        f"{head}step {i}: {{'train/loss': 0.1, 'train/entropy_loss': 0.4, "
        f"'train/grad_norm': 0.5}}\n"
        f"{head}perf {i}: {{'perf/rollout_time': 12.5}}\n"
        for i, v in enumerate(values)
    )


def skyrl(values):
    """Format as SkyRL's console tracker: pprint of rounded texts, over several lines."""
    head = "(skyrl_entrypoint pid=9) 2026-01-02 03:04:05.678 | INFO     | skyrl.train:log:160 - "
    ray = "(skyrl_entrypoint pid=9) "
    return "".join(
        f"{head}Step {i}: \n{ray}{{'generate/avg_num_tokens': '310.5000',\n"
        f"{ray} 'policy/policy_entropy': '0.4000',\n{ray} 'policy/policy_kl': '0.0100',\n"
        f"{ray} 'reward/avg_pass_at_8': '0.7500',\n{ray} 'reward/avg_raw_reward': '{v:.4f}',\n"
        f"{ray} 'trainer/global_step': {i}}}\n"
        for i, v in enumerate(values, 1)
    )


def skyrl_line(values):
    """Format as the line that SkyRL prints with any tracker, beside its progress bar."""
    return "".join(
        f"Training Batches Processed:  10%|#   | {i}/200 [00:05<02:36,  5.39s/it]\n"
        f"2026-01-02 03:04:05.678 | INFO     | skyrl.train:x:9 - reward/avg_pass_at_8: 0.75, "
        f"reward/avg_raw_reward: {v}, reward/mean_positive_reward: 0.4\n"
        for i, v in enumerate(values, 1)
    )


def roll(values):
    head = "[2026-01-02 03:04:05] [rlvr_pipeline.py (838)] [INFO] [Main] [1] "
    return "".join(
        head
        + "metrics_tag: "
        + json.dumps({"step": i, "metrics": {"critic/score/mean": v, "actor/approxkl": 0.1,
                                             "actor/grad_norm": 0.2}})
        + "\n"
        for i, v in enumerate(values)
    )  # fmt: skip


def nemo(values):
    return "{'num_prompts_per_step': 8, 'num_generations_per_prompt': 8}\n" + "".join(
        f"\n{'=' * 25} Step {i}/200 {'=' * 25}\n▶ Preparing batch...\n▶ Computing rewards...\n"
        f"\n📊 Training Results:\n  • Loss: 0.0123\n  • Generation KL Error: 0.0010\n"
        f"  • Avg Reward: {v:.4f}\n  • Mean Generation Length: 310.5000\n"
        f"\n⏱️  Timing:\n  • Total step time: 12.50s\n  • generation: 8.00s (64.0%)\n"
        for i, v in enumerate(values, 1)
    )


def prime(values):
    """Format as prime-rl's console, including its colours."""
    return "".join(
        f"\x1b[2m03:04:05\x1b[0m \x1b[32mSUCCESS\x1b[0m Step {i} |  12.50s | Reward {v:.4f} | "
        f"Trainable 50/64 (78.1%) | Turns 1.0 | Branches 1.0 | Max Off-Policy 1 | Error 0.0% | "
        f"Cancelled 0.0% | Truncation 12.5%\n"
        f"03:04:06 SUCCESS Evaluated set (Step {i}) | Policy v3 | 2.50s | Reward 0.9000 | "
        f"Turns 1.0\n"
        for i, v in enumerate(values)
    )


def prime_older(values):
    return "".join(
        f"03:04:05 SUCCESS Step {i} | Time: 12.50s | Reward: {v:.4f} | "
        f"Throughput: 900.1 tokens/s | Seq. Length: 310.5 tokens/sample\n"
        for i, v in enumerate(values)
    )


def areal(values):
    head = "20260102-03:04:05.678 StatsLogger INFO: "
    return "".join(
        f"{head}Epoch 1/2 Step {i}/100 Train step {i}/200 done.\n{head}Stats (1/1):\n{head}\n"
        f"╒{'═' * 24}╤{'═' * 12}╤{'═' * 22}╤{'═' * 12}╕\n"
        f"│ ppo_actor/task_reward/avg │ {v:.4e} │ ppo_actor/update/entropy/avg │ 4.0000e-01 │\n"
        f"├{'─' * 24}┼{'─' * 12}┼{'─' * 22}┼{'─' * 12}┤\n"
        f"│ ppo_actor/update/grad_norm │ 2.5000e-01 │                      │            │\n"
        f"╘{'═' * 24}╧{'═' * 12}╧{'═' * 22}╧{'═' * 12}╛\n"
        for i, v in enumerate(values, 1)
    )


def stable_baselines(values):
    return "Using cpu device\nWrapping the env with a `Monitor` wrapper\n" + "".join(
        f"{'-' * 41}\n| rollout/                |             |\n"
        f"|    ep_len_mean          | 22          |\n|    ep_rew_mean          | {v:<11.3g} |\n"
        f"| time/                   |             |\n|    fps                  | 900         |\n"
        f"|    iterations           | {i:<11} |\n|    total_timesteps      | {2048 * i:<11} |\n"
        f"| train/                  |             |\n|    approx_kl            | 0.01        |\n"
        f"|    entropy_loss         | -0.6        |\n{'-' * 41}\n"
        for i, v in enumerate(values, 1)
    )


def mlx(values):
    return "".join(
        f"\n{'=' * 80}\nIter {i}:\n{'-' * 80}\nLoss: 0.010\nTotal Rewards:  μ={v:.3f}, σ=0.400\n"
        f"Group Rewards:  μ={v:.3f}, σ=0.300\nKL Divergence: 0.010000000000\n{'-' * 80}\n"
        f"Generation Stats:\n  • Avg tokens: 310.5\n  • Hit limit: 12.5%\n{'=' * 80}\n\n"
        for i, v in enumerate(values, 1)
    )


def mlx_older(values):
    return "".join(
        f"Iter {i}: Train loss 0.010, Total rewards mean {v:.3f}, Total rewards std 0.400, "
        f"KL 0.010, Learning Rate 1.000e-05, It/sec 0.5\n"
        for i, v in enumerate(values, 1)
    )


def trl(values):
    """Format as TRL's console with its progress bar, coloured dicts, and an evaluation."""
    return "".join(
        f"\r {i}%|#   | {i}/200 [00:05<02:36,  5.39s/it]\r{' ' * 20}\r"
        f"{{'loss': 0.01, 'grad_norm': \x1b[33mnp.float64(0.5)\x1b[0m, 'reward': {v}, "
        f"'reward_std': 0.4, 'completion_length': 310.5, 'kl': 0.0005, 'epoch': {i / 50:.2f}}}\n"
        + (
            f"{{'eval_loss': 0.1, 'eval_reward': 0.9, 'epoch': {i / 50:.2f}}}\n"
            if i % 10 == 0
            else ""
        )
        for i, v in enumerate(values, 1)
    )


def torchtune(values):
    """Format as torchtune's disk logger."""
    return "".join(
        f"Step {i} | loss:0.01 rewards:{v} kl_loss:0.001 lr:1e-05 \n" for i, v in enumerate(values)
    )


def plain(values):
    return "".join(
        f"INFO step={i} loss=0.01 mean_reward={v} entropy=0.4\n" for i, v in enumerate(values)
    )
