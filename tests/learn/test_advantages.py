"""Advantages and token weights: values computed by hand, and invariances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.algorithms.parts.advantages import coded, group_advantages, token_weights
from selfreg.algorithms.parts.settings import Settings


def advantages(rewards, *, reward_coding, **flags):
    names = {
        "center": "use_score_centering", "normalize": "use_std_normalization",
        "leave_one_out": "use_leave_one_out",
    }  # fmt: skip
    settings = Settings(**{names[flag]: on for flag, on in flags.items()})
    return group_advantages(settings, coded(rewards, reward_coding))


REWARDS = np.array([1, 0, 0, 1], np.float32)
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.float32)


@pytest.mark.parametrize(
    ("coding", "center", "normalize", "wanted"),
    [
        ("zero_one", False, False, [1, 0, 0, 1]),  # REINFORCE
        ("minus_one_one", False, False, [1, -1, -1, 1]),
        ("zero_one", True, False, [0.5, -0.5, -0.5, 0.5]),  # Dr. GRPO
        ("minus_one_one", True, False, [1, -1, -1, 1]),
        ("zero_one", True, True, [1, -1, -1, 1]),  # GRPO: 0.5 / std 0.5
    ],
)
def test_by_hand(coding, center, normalize, wanted):
    got = advantages(REWARDS, reward_coding=coding, center=center, normalize=normalize)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert got.dtype == np.float32


def test_leave_one_out_by_hand():
    # Of the other three, 1 passes if this one passed, and 2 pass if it failed.
    got = advantages(
        REWARDS, reward_coding="zero_one", center=True, normalize=False, leave_one_out=True
    )
    np.testing.assert_allclose(got, [2 / 3, -2 / 3, -2 / 3, 2 / 3], rtol=1e-6)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=16))
def test_leave_one_out_is_each_reward_less_the_mean_of_the_others(rewards):
    rewards = np.array(rewards, np.float32)
    got = advantages(
        rewards, reward_coding="minus_one_one", center=True, normalize=False, leave_one_out=True
    )
    coded = 2 * rewards - 1
    wanted = [coded[i] - np.delete(coded, i).mean() for i in range(len(coded))]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_group_without_spread_teaches_nothing_under_grpo():
    for value in (0, 1):
        rewards = np.full(5, value, np.float32)
        got = advantages(rewards, reward_coding="zero_one", center=True, normalize=True)
        assert got.tolist() == [0] * 5


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=16), st.booleans())
def test_centered_advantages_ignore_the_coding_up_to_scale_and_follow_permutations(
    rewards, normalize
):
    rewards = np.array(rewards, np.float32)
    one = advantages(rewards, reward_coding="zero_one", center=True, normalize=normalize)
    two = advantages(rewards, reward_coding="minus_one_one", center=True, normalize=normalize)
    # {-1,+1} is {0,1} shifted and doubled. Centering undoes the shift, and the spread the doubling.
    np.testing.assert_allclose(two, one if normalize else 2 * one, atol=1e-4)
    order = np.random.default_rng(0).permutation(len(rewards))
    again = advantages(rewards[order], reward_coding="zero_one", center=True, normalize=normalize)
    np.testing.assert_allclose(again, one[order], atol=1e-6)
    assert abs(one.sum()) < 1e-5


@pytest.mark.parametrize(
    ("aggregation", "wanted"),
    [
        ("token_mean", [[1 / 4, 1 / 4, 1 / 4, 0], [1 / 4, 0, 0, 0]]),
        ("sequence_mean", [[1 / 6, 1 / 6, 1 / 6, 0], [1 / 2, 0, 0, 0]]),
        ("sum", [[1, 1, 1, 0], [1, 0, 0, 0]]),
        ("constant_length", [[1 / 16, 1 / 16, 1 / 16, 0], [1 / 16, 0, 0, 0]]),
    ],
)
def test_token_weights_by_hand(aggregation, wanted):
    np.testing.assert_allclose(token_weights(MASK, aggregation, 8), wanted, rtol=1e-6)
