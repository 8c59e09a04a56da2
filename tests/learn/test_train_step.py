"""The update against a plain one, and what must not change it."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg import records
from selfreg.learn.collate import collate
from selfreg.learn.optim import learning_rate, make_optimizer
from selfreg.learn.train_step import LearnSettings, make_learner
from selfreg.mesh import make_mesh
from selfreg.models.policy import load_policy, random_params
from selfreg.records import FinishReason, Grade, Group, Outcome, Problem, Rollout

POLICY, _ = load_policy("tiny")
PARAMS = random_params(POLICY.config, seed=1)
OPTIMIZER = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": 0.0}
COLLATE = {
    "prompt_width": 32, "completion_lengths": (12, 20), "reward_coding": "minus_one_one",
    "center": False, "normalize": False, "aggregation": "token_mean",
}  # fmt: skip


def make_groups(seed=0, problems=2, group=4):
    generator = np.random.default_rng(seed)

    def rollout(prompt):
        length = int(generator.integers(1, 11))
        return Rollout(
            prompt_ids=prompt,
            completion_ids=generator.integers(2, 500, length).astype(np.int32),
            logprobs=-generator.random(length).astype(np.float32),
            text="",
            finish_reason=FinishReason.STOP,
        )

    groups = []
    for number in range(problems):
        prompt = generator.integers(2, 500, int(generator.integers(3, 30))).astype(np.int32)
        grades = tuple(
            Grade(Outcome.PASSED if generator.random() < 0.5 else Outcome.FAILED)
            for _ in range(group)
        )
        problem = Problem(str(number), "", records.Tests(code="pass"))
        rollouts = tuple(rollout(prompt) for _ in range(group))
        groups.append(Group(problem, rollouts, ("",) * group, grades))
    return groups


@cache
def learner(microbatch=8, use_ratio=False, use_kl=False, **optimizer):
    rule = make_optimizer(**OPTIMIZER | optimizer)
    settings = LearnSettings("float32", 0.7, 16, microbatch, use_ratio, use_kl)
    return make_learner(POLICY, make_mesh(-1, 1, 1), rule, settings)


def gradient_of(batch, microbatch=8, **options):
    """The gradient itself: the first moment after one step with b1 = 0.5 is half of it."""
    made = learner(microbatch, b1=0.5, **options)
    state, metrics = made.update(made.init(PARAMS), batch, None, 0.0, 0.0)
    moments = next(m for m in state.moments if hasattr(m, "mu"))
    return jax.tree.map(lambda m: 2 * np.asarray(m), moments.mu), metrics


def plain_loss(params, batch, rows_per_prompt, use_ratio=False):
    """One row at a time, whole sequences, whole logits."""
    decoder = POLICY.decoder(params)
    total = 0.0
    for row in range(len(batch.completion_ids)):
        count = int(batch.completion_mask[row].sum())
        prompt = row // rows_per_prompt
        start = int(batch.prompt_lengths[prompt])
        whole = np.concatenate(
            [batch.prompt_ids[prompt][:start], batch.completion_ids[row][:count]]
        )
        hidden, _ = decoder(jnp.asarray(whole[None]), jnp.array([len(whole)]), jnp.dtype("float32"))
        logprobs = jax.nn.log_softmax(hidden[0, start - 1 : -1] @ decoder.head_weight.T / 0.7)
        own = logprobs[jnp.arange(count), batch.completion_ids[row][:count]]
        gain = jnp.exp(own - batch.logprobs[row][:count]) if use_ratio else own
        total -= jnp.sum(batch.token_weights[row][:count] * batch.advantages[row] * gain)
    return total


def close(a, b, rtol=1e-4):
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(b))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=rtol * scale), a, b)


@pytest.mark.parametrize("use_ratio", [False, True])
def test_loss_and_gradient_equal_a_plain_loop(use_ratio):
    batch = collate(make_groups(group=2), rows_per_prompt=2, **COLLATE)
    value, wanted = jax.value_and_grad(plain_loss)(PARAMS, batch, 2, use_ratio)
    got, metrics = gradient_of(batch, microbatch=4, use_ratio=use_ratio)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
    close(got, wanted)
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(wanted)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)


@pytest.mark.parametrize(("microbatch", "rows_per_prompt"), [(4, 4), (2, 2), (1, 1)])
def test_microbatches_add_up_to_the_whole_batch(microbatch, rows_per_prompt):
    whole, metrics = gradient_of(collate(make_groups(), rows_per_prompt=4, **COLLATE))
    parts, again = gradient_of(
        collate(make_groups(), rows_per_prompt=rows_per_prompt, **COLLATE), microbatch
    )
    close(parts, whole)
    for name in ("loss", "entropy", "approx_kl", "is_eff_sample_size"):
        np.testing.assert_allclose(again[name], metrics[name], rtol=1e-4)


@given(st.integers(0, 100))
@settings(max_examples=4, deadline=None)
def test_padding_and_the_order_of_groups_change_nothing(seed):
    groups = make_groups(seed)
    short = collate(groups, rows_per_prompt=4, **COLLATE)
    wider = {"prompt_width": 48, "completion_lengths": (20,)}
    padded = collate(groups, rows_per_prompt=4, **COLLATE | wider)
    turned = collate(groups[::-1], rows_per_prompt=4, **COLLATE)
    wanted, _ = gradient_of(short)
    close(gradient_of(padded)[0], wanted)
    close(gradient_of(turned)[0], wanted)


def test_equal_rewards_change_no_weight_under_grpo():
    groups = [
        Group(g.problem, g.rollouts, g.programs, (Grade(Outcome.FAILED),) * 4)
        for g in make_groups()
    ]
    batch = collate(groups, rows_per_prompt=4, **COLLATE | {"center": True, "normalize": True})
    made = learner()
    state, metrics = made.update(made.init(PARAMS), batch, None, 1e-2, 0.0)
    assert metrics["grad_norm"] == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, PARAMS)


def test_a_step_raises_the_logprob_of_what_was_rewarded():
    groups = make_groups()
    batch = collate(groups, rows_per_prompt=4, **COLLATE)
    made = learner()
    state = made.init(PARAMS)
    before = np.asarray(made.logprobs(state.params, batch))
    state, _ = made.update(state, batch, None, 1e-3, 0.0)
    change = (np.asarray(made.logprobs(state.params, batch)) - before) * batch.completion_mask
    rewarded = batch.advantages > 0
    assert change[rewarded].sum() > 0 > change[~rewarded].sum()


def test_kl_pulls_towards_the_reference():
    batch = collate(make_groups(), rows_per_prompt=4, **COLLATE)
    made = learner(use_kl=True)
    other = random_params(POLICY.config, seed=2)
    reference = made.logprobs(made.init(other).params, batch)
    state, distances = made.init(PARAMS), []
    still = batch.__class__(
        **{n: getattr(batch, n) for n in batch.__slots__} | {"advantages": 0 * batch.advantages}
    )
    for _ in range(5):
        state, metrics = made.update(state, still, reference, 1e-3, 1.0)
        distances.append(float(metrics["k3_kl"]))
    assert distances[0] > 0
    assert np.all(np.diff(distances) < 0)


def test_mismatch_metrics_by_hand():
    batch = collate(make_groups(), rows_per_prompt=4, **COLLATE)
    made = learner()
    state = made.init(PARAMS)
    own, mask = np.asarray(made.logprobs(state.params, batch)), batch.completion_mask
    _, metrics = made.update(state, batch, None, 0.0, 0.0)
    difference = (own - batch.logprobs)[mask > 0]
    ratio = np.exp(difference)
    np.testing.assert_allclose(
        metrics["rollout/logprob_abs_diff"], np.abs(difference).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(metrics["approx_kl"], -difference.mean(), rtol=1e-4)
    wanted = ratio.sum() ** 2 / (len(ratio) * np.sum(ratio**2))
    np.testing.assert_allclose(metrics["is_eff_sample_size"], wanted, rtol=1e-4)
    assert metrics["update_norm"] == 0
    assert metrics["bf16_changed_fraction"] == 0


def test_tiny_steps_move_float32_masters_that_bfloat16_would_not_see():
    batch = collate(make_groups(), rows_per_prompt=4, **COLLATE)
    made = learner()
    state, metrics = made.update(made.init(PARAMS), batch, None, 1e-6, 0.0)
    moved = np.mean(np.asarray(state.params["blocks"]["q"]) != PARAMS["blocks"]["q"])
    assert moved > 0.9
    assert metrics["bf16_changed_fraction"] < 0.1


def test_warm_up_is_linear_and_ends():
    assert [learning_rate(1.0, step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate(3e-4, 0, 0) == 3e-4
