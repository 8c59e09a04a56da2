"""The additions of algorithms to the policy gradient, each computed by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfreg.algorithms.parts.advantages import group_advantages, token_weights
from selfreg.algorithms.parts.algorithm import Tokens
from selfreg.algorithms.parts.covariance import covariances
from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings
from selfreg.policy.learn.collate import collate, learned_from, overlong_penalty
from selfreg.run.algorithm import find_algorithm
from selfreg.run.config import default
from selfreg.run.records import FinishReason, Grade, Outcome
from selfreg.run.validate import resolve
from tests.learn.test_train_step import COLLATE, make_groups

LOGPROBS = np.log(np.array([[0.5, 0.1, 0.3]]))
SAMPLER = np.log(np.array([[0.25, 0.2, 0.3]]))  # ratios 2, 0.5 and 1
ONE = jnp.zeros((1, 3), jnp.int32)


def tokens_of(logprobs, advantage, sampler=SAMPLER, completion=ONE, mask=None):
    logprobs = jnp.asarray(logprobs, jnp.float32)
    advantages = jnp.full(logprobs.shape, advantage, jnp.float32)
    mask = jnp.ones(logprobs.shape) if mask is None else mask
    return Tokens(logprobs, jnp.asarray(sampler, jnp.float32), advantages, mask, completion, 3)


def slopes(algorithm, advantage, **rest):
    """Return the derivative of the loss by each token's logprob."""

    def total(logprobs):
        tokens = tokens_of(logprobs, advantage, **rest)
        return algorithm.token_loss(algorithm.settings, tokens)[0].sum()

    return jax.grad(total)(jnp.asarray(LOGPROBS, jnp.float32))[0]


def described(algorithm, advantage, **rest):
    tokens = tokens_of(LOGPROBS, advantage, **rest)
    return algorithm.token_loss(algorithm.settings, tokens)[1]


def with_settings(name, **changes):
    algorithm = find_algorithm(name)
    return replace(algorithm, settings=replace(algorithm.settings, **changes))


def test_cispo_bounds_a_tokens_weight_and_keeps_its_gradient():
    cispo = with_settings("cispo", clip_low=0.2, clip_high=0.5)
    # Weights: 2 becomes 1.5, 0.5 becomes 0.8, and 1 stays. PPO's clip would have stopped the first.
    np.testing.assert_allclose(slopes(cispo, 2.0), [-2 * 1.5, -2 * 0.8, -2], rtol=1e-6)
    np.testing.assert_allclose(described(cispo, 2.0)["clip_fraction"], [[1, 1, 0]])
    ppo = with_settings("ppo", clip_low=0.2, clip_high=0.5)
    np.testing.assert_allclose(slopes(ppo, 2.0), [0, -2 * 0.5, -2], atol=1e-6)
    # By default, the weight is clipped only from above, at 1 + 4.
    np.testing.assert_allclose(slopes(find_algorithm("cispo"), 2.0), [-4, -1, -2], rtol=1e-6)


@pytest.mark.parametrize(
    ("advantage", "dual", "loss", "slope"),
    [
        # A bad token with r = 2: the loss -r A = 2 is limited to 1.5, and its gradient is then 0.
        (-1.0, 1.5, [1.5, 0.8, 1], [0, 0, 1]),
        (-1.0, 3.0, [2, 0.8, 1], [2, 0, 1]),
        (1.0, 1.5, [-1.2, -0.5, -1], [0, -0.5, -1]),  # a good token is not limited
    ],
)
def test_dual_clip_by_hand(advantage, dual, loss, slope):
    ppo = with_settings("ppo", dual_clip=dual)
    got, _ = ppo.token_loss(ppo.settings, tokens_of(LOGPROBS, advantage))
    np.testing.assert_allclose(got, [loss], rtol=1e-6)
    np.testing.assert_allclose(slopes(ppo, advantage), slope, atol=1e-6)


def test_topr_tapers_bad_completions_alone():
    topr = find_algorithm("topr")
    np.testing.assert_allclose(slopes(topr, 1.0), [-1, -1, -1], rtol=1e-6)
    # The completion's ratio is 2 x 0.5 x 1 = 1. With a sampler that makes the first two tokens
    # three times as likely, it is 1/9.
    np.testing.assert_allclose(slopes(topr, -1.0), [1, 1, 1], rtol=1e-5)
    likelier = SAMPLER + np.log([[3, 3, 1]])
    np.testing.assert_allclose(slopes(topr, -1.0, sampler=likelier), [1 / 9] * 3, rtol=1e-5)
    rarer = SAMPLER - np.log([[3, 3, 1]])  # a ratio of 9 counts as 1
    np.testing.assert_allclose(slopes(topr, -1.0, sampler=rarer), [1, 1, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("level", "bounds", "kept"),
    [
        ("token", (0.6, 0.0), [1, 0, 1]),  # ratios 2, 0.5, 1
        ("token", (0.0, 1.5), [0, 1, 1]),
        ("token", (0.6, 1.5), [0, 0, 1]),
        # Two completions: the product of the first two tokens is 1, and so is that of the third.
        ("sequence", (0.9, 1.1), [1, 1, 1]),
        ("geometric", (0.9, 1.1), [1, 1, 1]),
    ],
)
def test_masks_by_hand(level, bounds, kept):
    own = {"mask_low": bounds[0], "mask_high": bounds[1], "mask_level": level}
    masking = policy_gradient("", Settings(**own))
    np.testing.assert_allclose(slopes(masking, 2.0), -2.0 * np.array(kept), rtol=1e-6)
    fraction = described(masking, 2.0)["masked_fraction"]
    np.testing.assert_allclose(fraction, [1 - np.array(kept, np.float32)])


def test_a_masked_completion_is_masked_whole():
    # Completion 0 has the ratios 2 and 2: product 4, geometric mean 2. Completion 1: ratio 1.
    sampler = LOGPROBS - np.log([[2, 2, 1]])
    completion = jnp.array([[0, 0, 1]])
    for level, high, kept in (
        ("sequence", 3.0, [0, 0, 1]),
        ("geometric", 3.0, [1, 1, 1]),
        ("geometric", 1.5, [0, 0, 1]),
    ):
        masking = policy_gradient("", Settings(mask_high=high, mask_level=level))
        got = slopes(masking, 1.0, sampler=sampler, completion=completion)
        np.testing.assert_allclose(got, -np.array(kept, float), rtol=1e-6)


def test_padding_is_neither_masked_nor_in_a_completions_ratio():
    mask = jnp.array([[1.0, 1.0, 0.0]])
    masking = policy_gradient("", Settings(mask_high=1.5, mask_level="sequence"))
    got = described(masking, 1.0, sampler=SAMPLER - np.log([[1, 1, 9]]), mask=mask)
    np.testing.assert_allclose(got["masked_fraction"], [[0, 0, 0]])


def test_negative_advantages_are_weighed():
    rewards = np.array([1, 0, 0, 1], np.float32)
    settings = Settings(use_score_centering=True, negative_weight=0.2)
    np.testing.assert_allclose(group_advantages(settings, rewards), [0.5, -0.1, -0.1, 0.5])
    settings = replace(settings, negative_weight=0.0)
    np.testing.assert_allclose(group_advantages(settings, rewards), [0.5, 0, 0, 0.5])


def test_the_overlong_penalty_by_hand():
    lengths = np.array([5, 6, 7, 8, 10])
    got = overlong_penalty(lengths, max_new_tokens=10, overlong_tokens=4)
    np.testing.assert_allclose(got, [0, 0, -0.25, -0.5, -1])
    assert overlong_penalty(lengths, 10, 0).tolist() == [0] * 5
    # The penalty is added to the reward before the group's mean is taken.
    groups = make_groups(problems=1, lengths=[4, 10, 4, 4])
    passed = replace(groups[0], grades=(Grade(Outcome.PASSED),) * 4)
    grpo = policy_gradient("", Settings(use_score_centering=True))
    batch = collate([passed], **COLLATE | {"algorithm": grpo}, overlong_tokens=4)
    np.testing.assert_allclose(batch.advantages, [0.25, -0.75, 0.25, 0.25])


def mixed_groups():
    """Make three groups of two: both pass, one passes, both fail. The last one is truncated."""
    grades = [Outcome.PASSED, Outcome.PASSED, Outcome.PASSED, Outcome.FAILED] + [Outcome.FAILED] * 2
    groups = make_groups(problems=3, group=2, lengths=[2, 3, 4, 5, 6, 10])
    for number, group in enumerate(groups):
        own = tuple(Grade(outcome) for outcome in grades[2 * number : 2 * number + 2])
        groups[number] = replace(group, grades=own)
    last = groups[2].rollouts
    cut = (last[0], replace(last[1], finish_reason=FinishReason.LENGTH))
    groups[2] = replace(groups[2], rollouts=cut)
    return groups


def test_groups_without_signal_and_cut_completions_are_left_out():
    groups = mixed_groups()
    assert [group.has_signal for group in groups] == [False, True, False]
    assert learned_from(groups) is None
    dropped = learned_from(groups, drop_without_signal=True)
    assert dropped.tolist() == [False, False, True, True, False, False]
    uncut = learned_from(groups, mask_truncated=True)
    assert uncut.tolist() == [True] * 5 + [False]
    batch = collate(groups, **COLLATE, learned=dropped)
    # 4 + 5 tokens remain in the divisor. The others have weight 0 and keep their advantage.
    np.testing.assert_allclose(batch.token_weights.sum(axis=1), [0, 0, 4 / 9, 5 / 9, 0, 0])
    assert batch.advantages.tolist() == [1, 1, 1, -1, -1, -1]


@pytest.mark.parametrize(
    ("aggregation", "wanted"),
    [
        ("token_mean", [[1 / 3] * 3, [0] * 3]),
        ("sequence_mean", [[1 / 3] * 3, [0] * 3]),
        ("constant_length", [[1 / 8] * 3, [0] * 3]),
        ("sum", [[1] * 3, [0] * 3]),
    ],
)
def test_what_is_left_out_is_not_divided_by(aggregation, wanted):
    mask, learned = np.ones((2, 3), np.float32), np.array([True, False])
    np.testing.assert_allclose(token_weights(mask, aggregation, 8, learned), wanted)
    nothing = token_weights(mask, aggregation, 8, np.array([False, False]))
    assert not nothing.any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learn.dual_clip": 3.0}, "dual_clip=3.0 .*use_importance_sampling_ratio=True"),
        ({"learn.dual_clip": 0.5}, "dual_clip=0.5 .* 0, or above 1"),
        ({"learn.algorithm": "ppo", "learn.dual_clip": 1.1}, "above 1 . learn.clip_high"),
        ({"learn.mask_level": "sequence"}, "mask_level='sequence' .* unless learn.mask_low"),
        ({"learn.algorithm": "clip_cov", "learn.clip_cov_high": 0.5}, "above learn.clip_cov_low=1"),
        ({"learn.algorithm": "kl_cov"}, "updates_per_batch=1 .* at least 2 under kl_cov"),
        ({"learn.kl_cov_coef": 2.0}, "reinforce' reads no other"),
        ({"learn.mask_high": 0.5}, "mask_high=0.5 .* 0, or above 1"),
        ({"learn.algorithm": "dpo", "learn.negative_weight": 0.5}, "dpo' reads no other"),
        ({"learn.overlong_tokens": 97}, "overlong_tokens=97 .* at most rollout.max_new_tokens=96"),
        ({"learn.algorithm": "topr", "learn.clip_high": 0.2}, "clip_high=0.2"),
        ({"learn.algorithm": "topr", "learn.mask_high": 2.0}, "topr' reads no other"),
        ({"learn.algorithm": "cispo", "learn.dual_clip": 9.0}, "cispo' reads no other"),
        (
            {"learn.algorithm": "cispo", "learn.use_importance_sampling_ratio": False},
            "ratio=False .* True: learn.algorithm='cispo'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes, words):
    config = default()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=words):
        resolve(config)


def covariance_batch():
    """Two completions of two tokens: logprobs -1, -3 with advantage 1, and -2, -4 with -1."""
    logprobs = np.array([[-1, -3, 0], [-2, -4, 0]], np.float32)
    weights = np.array([[0.25, 0.25, 0], [0.25, 0.25, 0]], np.float32)
    batch = collate(make_groups(problems=1, group=2, lengths=[2, 2]), **COLLATE)
    advantages = np.array([1, -1], np.float32)
    return logprobs, replace(batch, advantages=advantages, token_weights=weights)


def test_covariances_by_hand():
    logprobs, batch = covariance_batch()
    # Means are -2.5 and 0: (1.5, -0.5) x 1 and (0.5, -1.5) x -1.
    wanted = [[1.5, -0.5, np.nan], [-0.5, 1.5, np.nan]]
    np.testing.assert_allclose(covariances(logprobs, batch), wanted)
    nothing = replace(batch, token_weights=0 * batch.token_weights)
    assert np.isnan(covariances(logprobs, nothing)).all()


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [
        ("clip_cov", {"clip_cov_fraction": 0.5}, [[1, 0, 0], [0, 1, 0]]),
        ("clip_cov", {"clip_cov_fraction": 0.9, "clip_cov_low": 2.0}, [[0] * 3] * 2),
        ("kl_cov", {"kl_cov_fraction": 0.5}, [[1, 0, 0], [0, 1, 0]]),
        ("kl_cov", {"kl_cov_fraction": 0.01}, [[1, 0, 0], [0, 0, 0]]),  # at least one
        ("kl_cov", {"kl_cov_fraction": 0.99}, [[1, 1, 0], [0, 1, 0]]),  # 3 of 4; ties in order
    ],
)
def test_marked_tokens_by_hand(name, changes, wanted):
    logprobs, batch = covariance_batch()
    algorithm = with_settings(name, **changes)
    marks = algorithm.mark(algorithm.settings, logprobs, batch, np.random.default_rng(0))
    np.testing.assert_array_equal(marks, wanted)
    nothing = replace(batch, token_weights=0 * batch.token_weights)
    assert not algorithm.mark(algorithm.settings, logprobs, nothing, np.random.default_rng(0)).any()


def test_clip_cov_draws_among_those_in_range():
    logprobs, batch = covariance_batch()
    clip_cov = with_settings("clip_cov", clip_cov_fraction=0.25)
    drawn = [
        clip_cov.mark(clip_cov.settings, logprobs, batch, np.random.default_rng(seed))
        for seed in range(40)
    ]
    assert {int(marks.sum()) for marks in drawn} == {1}
    places = np.sum(drawn, axis=0)
    assert min(places[0, 0], places[1, 1]) > 8
    assert places.sum() == 40 == places[0, 0] + places[1, 1]


def test_marked_tokens_lose_their_gradient_or_are_held():
    marks = jnp.array([[1.0, 0, 0]])
    tokens = tokens_of(LOGPROBS, 2.0)._replace(marks=marks)
    clip_cov, kl_cov = (find_algorithm(name) for name in ("clip_cov", "kl_cov"))

    def slope(algorithm):
        def total(logprobs):
            now = tokens._replace(logprobs=logprobs)
            return algorithm.token_loss(algorithm.settings, now)[0].sum()

        return jax.grad(total)(tokens.logprobs)[0]

    np.testing.assert_allclose(slope(clip_cov), [0, -2, -2], rtol=1e-6)
    # -r A, and for the marked token with r = 2 also r - 1 - log r, whose slope is r - 1.
    np.testing.assert_allclose(slope(kl_cov), [-4 + 1, -1, -2], rtol=1e-5)
    loss, described = kl_cov.token_loss(kl_cov.settings, tokens)
    np.testing.assert_allclose(loss[0, 0], -4 + 2 - 1 - np.log(2), rtol=1e-5)
    np.testing.assert_array_equal(described["marked_fraction"], marks)
