"""Console formats of all trainers, with invented values in the form that their sources print."""

import numpy as np
import pytest

from selfreg.integrations.audit import read_logs
from tests.audit import made
from tests.audit.made import rates

VALUES = rates(np.linspace(0.3, 0.7, 24))


@pytest.mark.parametrize(
    ("print_it", "column", "first", "indicators", "digits"),
    [
        (made.verl, "critic/score/mean", 1, {"entropy", "KL", "gradient norm", "length",
                                             "cut at the limit"}, 9),
        (made.verl_rounded, "critic/score/mean", 0, {"entropy"}, 3),
        (made.openrlhf, "reward", 1, {"KL", "length"}, 9),
        (made.openrlhf_bars, "reward", 1, {"KL", "length"}, 9),
        (made.slime, "rollout/raw_reward", 0, {"entropy", "gradient norm", "length",
                                               "cut at the limit"}, 9),
        (made.skyrl, "reward/avg_raw_reward", 1, {"entropy", "KL", "length"}, 4),
        (made.skyrl_line, "reward/avg_raw_reward", 1, set(), 9),
        (made.roll, "critic/score/mean", 0, {"gradient norm"}, 9),
        (made.nemo, "Avg Reward", 1, {"KL", "length"}, 4),
        (made.prime, "Reward", 0, {"cut at the limit"}, 4),
        (made.prime_older, "Reward", 0, {"length"}, 4),
        (made.areal, "ppo_actor/task_reward/avg", 1, {"entropy", "gradient norm"}, 4),
        (made.stable_baselines, "rollout/ep_rew_mean", 1, {"entropy", "KL", "length"}, 2),
        (made.mlx, "Total Rewards", 1, {"KL", "length", "cut at the limit"}, 3),
        (made.mlx_older, "Total rewards mean", 1, set(), 3),
        (made.trl, "reward", 1, {"KL", "gradient norm", "length"}, 9),
        (made.torchtune, "rewards", 0, {"KL"}, 9),
        (made.plain, "mean_reward", 0, {"entropy"}, 9),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_consoles(tmp_path, print_it, column, first, indicators, digits):
    file = tmp_path / "train.log"
    file.write_text(print_it(VALUES))
    (log,) = read_logs(file)
    assert log.column == column
    assert log.steps.tolist() == list(range(first, first + len(VALUES)))
    np.testing.assert_allclose(log.values, VALUES, atol=0.51 * 10.0**-digits)
    assert log.indicators.keys() >= indicators
    for one in log.indicators.values():
        assert one.steps.tolist() == log.steps.tolist()


@pytest.mark.parametrize("print_it", [made.verl, made.slime, made.nemo])
def test_settings_that_a_console_prints(tmp_path, command, print_it):
    file = tmp_path / "train.log"
    file.write_text(print_it(VALUES))
    done = command(file)
    assert "64 samples of 8 problems per value (the log's" in done.stdout
