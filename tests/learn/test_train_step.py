"""The update against a plain implementation, and settings that must not change it."""

import math
import re
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings
from selfreg.policy import xla
from selfreg.policy.learn.collate import collate
from selfreg.policy.learn.learner import make_learner
from selfreg.policy.learn.objective import Objective
from selfreg.policy.learn.optim import learning_rate, make_optimizer
from selfreg.policy.learn.packing import Packing
from selfreg.policy.learn.train_step import LearnSettings
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.policy import load_policy, random_params
from selfreg.run import records
from selfreg.run.algorithm import find_algorithm
from selfreg.run.records import FinishReason, Grade, Group, Outcome, Problem, Rollout

POLICY, _ = load_policy("tiny")
PARAMS = random_params(POLICY.config, seed=1)
OPTIMIZER = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": 0.0}
LONGEST = 10
PACKING = Packing((10, 16), 2)
RATIO = Settings(use_importance_sampling_ratio=True)
COLLATE = {
    "prompt_width": 32, "max_new_tokens": LONGEST, "packing": PACKING,
    "reward_coding": "minus_one_one", "algorithm": find_algorithm("reinforce"),
}  # fmt: skip


def make_groups(seed=0, problems=2, group=4, lengths=None):
    generator = np.random.default_rng(seed)
    given_lengths = iter(lengths or ())

    def rollout(prompt):
        length = int(next(given_lengths, generator.integers(1, LONGEST + 1)))
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
def learner(packing=PACKING, use_ratio=False, **optimizer):
    rule = make_optimizer(**OPTIMIZER | optimizer)
    settings = LearnSettings(
        "float32", 16, packing, Objective(policy_gradient("", RATIO if use_ratio else None))
    )
    return make_learner(POLICY, make_mesh(-1, 1, 1), rule, settings)


def gradient_of(batch, packing=PACKING, **options):
    """Return the gradient: with b1 = 0.5, the first moment after one step is half of it."""
    made = learner(packing, b1=0.5, **options)
    state, metrics = made.update(made.init(PARAMS), batch, None, 0.0, 0.0, 0.7)
    moments = next(m for m in state.moments if hasattr(m, "mu"))
    return jax.tree.map(lambda m: 2 * np.asarray(m), moments.mu), metrics


@jax.jit
def plain_scores(params, tokens, length):
    """Return the logprobs of all tokens of a sequence but the first, from its full logits."""
    decoder = POLICY.decoder(params)
    hidden = decoder(tokens[None], length[None], jnp.dtype("float32")).hidden
    logprobs = jax.nn.log_softmax(hidden[0, :-1] @ decoder.head_weight.T / 0.7)
    return jnp.take_along_axis(logprobs, tokens[1:, None], axis=1)[:, 0]


def plain_logprobs(params, batch):
    """Return the logprobs of each completion [length], one whole sequence at a time."""
    for row, ids in enumerate(batch.completion_ids):
        prompt = row * len(batch.prompt_ids) // len(batch.completion_ids)
        start, count = batch.prompt_lengths[prompt], int(batch.completion_mask[row].sum())
        whole = np.concatenate([batch.prompt_ids[prompt][:start], ids[:count]])
        tokens = jnp.asarray(np.pad(whole, (0, 64 - len(whole))))
        yield plain_scores(params, tokens, jnp.int32(len(whole)))[start - 1 : len(whole) - 1]


def plain_loss(params, batch, use_ratio=False):
    total = 0.0
    for row, own in enumerate(plain_logprobs(params, batch)):
        gain = jnp.exp(own - batch.logprobs[row][: len(own)]) if use_ratio else own
        total -= jnp.sum(batch.token_weights[row][: len(own)] * batch.advantages[row] * gain)
    return total


def close(a, b, rtol=1e-4):
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(b))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=rtol * scale), a, b)


@pytest.mark.parametrize(
    ("lengths", "problems", "use_ratio"),
    [
        ([1, 7, 10, 3, 10, 1, 1, 6], 2, False),
        ([5, 5, 5, 5, 10, 10, 9, 8], 2, True),
        ([1, 4, 10], 3, False),
    ],
    ids=["several in a row", "importance sampling", "groups of one"],
)
def test_loss_and_gradient_equal_a_plain_loop(lengths, problems, use_ratio):
    group = len(lengths) // problems
    batch = collate(make_groups(3, problems, group, lengths), **COLLATE)
    value, wanted = jax.value_and_grad(plain_loss)(PARAMS, batch, use_ratio)
    got, metrics = gradient_of(batch, use_ratio=use_ratio)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
    close(got, wanted)
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(wanted)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)


@pytest.mark.parametrize("packing", [Packing((10,), 1), Packing((40,), 3)], ids=str)
def test_how_rows_are_packed_changes_nothing(packing):
    one, metrics = gradient_of(collate(make_groups(), **COLLATE))
    batch = collate(make_groups(), **COLLATE | {"packing": packing})
    other, again = gradient_of(batch, packing)
    close(other, one)
    for name in ("loss", "entropy", "approx_kl", "is_eff_sample_size"):
        np.testing.assert_allclose(again[name], metrics[name], rtol=1e-4)


@given(st.integers(0, 100))
@settings(max_examples=4, deadline=None)
def test_order_and_padding_change_nothing(seed):
    groups = make_groups(seed)
    turned = [Group(g.problem, g.rollouts[::-1], g.programs, g.grades[::-1]) for g in groups[::-1]]
    wanted, _ = gradient_of(collate(groups, **COLLATE))
    close(gradient_of(collate(turned, **COLLATE))[0], wanted)
    wider = {"prompt_width": 48, "max_new_tokens": 16}
    close(gradient_of(collate(groups, **COLLATE | wider))[0], wanted)


def test_reference_scores_are_those_of_whole_sequences():
    batch = collate(make_groups(), **COLLATE)
    made = learner()
    scores = np.asarray(made.logprobs(made.init(PARAMS).params, batch, 0.7))
    assert np.all(scores[batch.completion_mask == 0] == 0)
    for row, wanted in zip(scores, plain_logprobs(PARAMS, batch), strict=True):
        np.testing.assert_allclose(row[: len(wanted)], wanted, atol=1e-4)


def test_one_program_serves_every_length():
    xla.set_up()
    made = learner()
    state, compiled = made.init(PARAMS), []
    for lengths in ([10, 1, 2, 3, 4, 5, 6, 7], [1] * 8, [10] * 8, [6, 4] * 4):
        batch = collate(make_groups(lengths=lengths), **COLLATE)
        before = xla.compile_count()
        reference = made.logprobs(state.params, batch, 0.7)
        state, metrics = made.update(state, batch, reference, 1e-3, 0.1, 0.7)
        jax.block_until_ready(metrics)
        compiled.append(xla.compile_count() - before)
    assert compiled[1:] == [0, 0, 0]
    before = xla.compile_count()
    jax.jit(lambda x: x + len(compiled))(1.0)
    assert xla.compile_count() > before


def test_halves_beside_each_other_compile_two_programs_and_make_the_same_bits_always():
    xla.set_up()
    packing = Packing((10, 14), 1)
    batch = collate(make_groups(), **COLLATE | {"packing": packing})
    made = learner(packing)
    states, before = [made.init(PARAMS) for _ in range(4)], xla.compile_count()
    ends = [made.update(state, batch, None, 1e-3, 0.0, 0.7) for state in states]
    assert xla.compile_count() == before + 2
    for end in ends[1:]:
        jax.tree.map(np.testing.assert_array_equal, end, ends[0])


def test_halves_make_what_one_program_makes(monkeypatch):
    batch = collate(make_groups(), **COLLATE)
    state = learner().init(PARAMS)
    scores = learner().logprobs(state.params, batch, 0.7)
    in_two, metrics = gradient_of(batch)
    monkeypatch.setattr("selfreg.policy.learn.learner.in_halves", lambda *_: False)
    whole = Packing((10, 12), 2)  # equal packings would share programs
    batch = collate(make_groups(), **COLLATE | {"packing": whole})
    assert "update" in learner(whole).lower(batch)
    np.testing.assert_allclose(learner(whole).logprobs(state.params, batch, 0.7), scores, atol=1e-5)
    in_one, again = gradient_of(batch, whole)
    close(in_two, in_one)
    for name in ("loss", "entropy", "approx_kl", "is_eff_sample_size", "grad_norm"):
        np.testing.assert_allclose(again[name], metrics[name], rtol=1e-4)


def test_a_cpus_program_transposes_neither_what_an_ffn_makes_nor_scores():
    lowers, config = learner().lower(collate(make_groups(), **COLLATE)), POLICY.config
    program = lowers["gradient"]()
    moved = re.findall(r"= f32\[([\d,]+)\]\S* (?:copy|transpose)\(", program.compile().as_text())
    assert moved
    width = PACKING.row_tokens[0]  # no other array has this number of elements
    tokens = PACKING.microbatch_rows * width
    made = tokens * config.ffn_width
    scores = tokens * config.heads * (COLLATE["prompt_width"] + width)
    assert not {made, scores} & {math.prod(map(int, shape.split(","))) for shape in moved}


def test_equal_rewards_change_no_weight_under_grpo():
    groups = [
        Group(g.problem, g.rollouts, g.programs, (Grade(Outcome.FAILED),) * 4)
        for g in make_groups()
    ]
    batch = collate(groups, **COLLATE | {"algorithm": find_algorithm("grpo")})
    made = learner()
    state, metrics = made.update(made.init(PARAMS), batch, None, 1e-2, 0.0, 0.7)
    assert metrics["grad_norm"] == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, PARAMS)


def test_a_step_raises_the_logprob_of_what_was_rewarded():
    groups = make_groups()
    batch = collate(groups, **COLLATE)
    made = learner()
    state = made.init(PARAMS)
    before = np.asarray(made.logprobs(state.params, batch, 0.7))
    state, _ = made.update(state, batch, None, 1e-3, 0.0, 0.7)
    change = (np.asarray(made.logprobs(state.params, batch, 0.7)) - before) * batch.completion_mask
    rewarded = batch.advantages > 0
    assert change[rewarded].sum() > 0 > change[~rewarded].sum()


def test_kl_pulls_towards_the_reference():
    batch = collate(make_groups(), **COLLATE)
    made = learner()
    other = random_params(POLICY.config, seed=2)
    reference = made.logprobs(made.init(other).params, batch, 0.7)
    state, distances = made.init(PARAMS), []
    still = replace(batch, advantages=0 * batch.advantages)
    for _ in range(5):
        state, metrics = made.update(state, still, reference, 1e-3, 1.0, 0.7)
        distances.append(float(metrics["k3_kl"]))
    assert distances[0] > 0
    assert np.all(np.diff(distances) < 0)


def test_mismatch_metrics_by_hand():
    batch = collate(make_groups(), **COLLATE)
    made = learner()
    state = made.init(PARAMS)
    own, mask = np.asarray(made.logprobs(state.params, batch, 0.7)), batch.completion_mask
    _, metrics = made.update(state, batch, None, 0.0, 0.0, 0.7)
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
    batch = collate(make_groups(), **COLLATE)
    made = learner()
    state, metrics = made.update(made.init(PARAMS), batch, None, 1e-6, 0.0, 0.7)
    moved = np.mean(np.asarray(state.params["blocks"]["q"]) != PARAMS["blocks"]["q"])
    assert moved > 0.9
    assert metrics["bf16_changed_fraction"] < 0.1


def test_warm_up_is_linear_and_ends():
    assert [learning_rate(1.0, step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate(3e-4, 0, 0) == 3e-4
