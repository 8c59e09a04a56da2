"""Completions without a verdict contribute nothing, and do not change the others' update."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from selfreg.algorithms.parts.pairs import pair_advantages
from selfreg.loop.panel import score
from selfreg.policy.learn.collate import collate, learned_from, padded
from selfreg.run.algorithm import find_algorithm
from selfreg.run.records import Grade, Outcome, PanelScore, Unjudged, to_json
from tests.learn.test_algorithms import with_settings
from tests.learn.test_train_step import COLLATE, gradient_of, make_groups

LOST = Grade(Outcome.INFRA_ERROR, detail="no verdict")


def without_verdict(group, *numbers):
    """Return the group with these of its completions unjudged."""
    kept = [i for i in range(len(group.rollouts)) if i not in numbers]
    return replace(
        group,
        rollouts=tuple(group.rollouts[i] for i in kept),
        programs=tuple(group.programs[i] for i in kept),
        grades=tuple(group.grades[i] for i in kept),
        unjudged=tuple(Unjudged(group.rollouts[i], "", LOST) for i in numbers),
    )


def smaller(group):
    return replace(group, unjudged=())


def batch_of(groups, **settings):
    """Collate as a run does, with REINFORCE's settings otherwise."""
    options = COLLATE | {"algorithm": with_settings("reinforce", **settings)}
    return collate(groups, learned=learned_from(groups), **options)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length", "sum"])
@pytest.mark.parametrize("rule", [{}, {"use_leave_one_out": True}, {"use_std_normalization": True}])
def test_a_group_learns_as_a_smaller_one(aggregation, rule):
    groups = [without_verdict(group, 0, 2) for group in make_groups(3)]
    options = {"use_score_centering": True, "token_aggregation": aggregation} | rule
    batch = batch_of(groups, **options)
    alone = batch_of([smaller(group) for group in groups], **options)
    assert batch.completion_mask.shape[0] == 8  # the compiled shape
    rows = [0, 1, 4, 5]
    for name in ("completion_ids", "completion_mask", "logprobs", "advantages", "token_weights"):
        np.testing.assert_array_equal(getattr(batch, name)[rows], getattr(alone, name))
    empty = [2, 3, 6, 7]
    assert not batch.completion_mask[empty].any()
    assert not batch.token_weights[empty].any()
    assert not batch.advantages[empty].any()


def test_the_gradient_is_that_of_the_smaller_groups():
    groups = [without_verdict(group, 1) for group in make_groups(5)]
    wanted, _ = gradient_of(batch_of([smaller(group) for group in groups]))
    got, metrics = gradient_of(batch_of(groups))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got, wanted)
    assert all(np.isfinite(value).all() for value in metrics.values())


def test_groups_without_any_verdict():
    groups = make_groups(7)
    none = [without_verdict(group, 0, 1, 2, 3) for group in groups]
    centred = {"use_score_centering": True}
    rules = {}, centred | {"use_std_normalization": True}, centred | {"use_leave_one_out": True}
    for options in rules:
        batch = batch_of([none[0], groups[1]], **options)
        assert not batch.advantages[:4].any()
        assert batch.prompt_lengths[0] == len(groups[0].rollouts[0].prompt_ids)
    gradient, metrics = gradient_of(batch_of(none))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(metrics["grad_norm"])


def test_pairs_leave_them_out():
    rewards = np.array([padded(np.array([1, 0], np.float32), 3, np.nan)])
    dpo = find_algorithm("dpo")
    got, metrics = pair_advantages(dpo, rewards == 1, rewards == 0, np.zeros((1, 3)))
    assert (got[2], metrics["dpo/pairs"]) == (0, 1)


def test_a_panel_leaves_them_out():
    first, second, third = make_groups(1, problems=3)
    groups = [without_verdict(first, 0), without_verdict(second, 0, 1, 2, 3), third]
    got = score(groups)
    rates = [np.mean([grade.reward for grade in group.grades]) for group in (groups[0], third)]
    assert got.problem_ids == ("0", "1", "2")
    assert got.samples == 4
    assert got.pass_at_1 == pytest.approx(np.mean(rates))
    assert got.standard_error == pytest.approx(np.std(rates, ddof=1) / np.sqrt(2))
    told = to_json(got)
    assert told["pass_rates"][1] is None
    back = PanelScore(got.problem_ids, np.array(told["pass_rates"], np.float64), 4)
    np.testing.assert_array_equal(back.pass_rates, got.pass_rates)
