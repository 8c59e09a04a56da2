"""The update rules beyond REINFORCE and GRPO, each in a real update, against plain loops."""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfreg.algorithms.parts.pairs import pair_advantages
from selfreg.algorithms.parts.policy_gradient import policy_gradient
from selfreg.algorithms.parts.settings import Settings
from selfreg.policy.learn.collate import collate
from selfreg.policy.learn.learner import make_learner
from selfreg.policy.learn.objective import Objective
from selfreg.policy.learn.optim import cap_updates, make_optimizer
from selfreg.policy.learn.packing import Packing
from selfreg.policy.learn.train_step import LearnSettings, loss_scale
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.lora import Lora, random_adapters
from selfreg.policy.models.policy import random_params
from selfreg.run.algorithm import find_algorithm
from tests.learn.test_train_step import (
    COLLATE,
    OPTIMIZER,
    PARAMS,
    POLICY,
    close,
    make_groups,
    plain_logprobs,
)

PACKING = Packing((16,), 2)
GROUPS = make_groups(3, 2, 4, [1, 7, 10, 3, 10, 1, 1, 6])
TEMPERATURE = 0.7
CLIP = {"clip_low": 0.2, "clip_high": 0.28}
PPO = Objective(policy_gradient("", Settings(use_importance_sampling_ratio=True, **CLIP)))
BY_SEQUENCE = replace(PPO.algorithm.settings, ratio_level="sequence")
GSPO = Objective(replace(PPO.algorithm, settings=BY_SEQUENCE), entropy_coef=0.05)
DPO = find_algorithm("dpo")
RANK, ALPHA = 4, 8.0


@cache
def learner(objective=Objective(), **changes):  # noqa: B008 frozen
    rule = make_optimizer(**OPTIMIZER | {"b1": 0.5})
    settings = LearnSettings("float32", 16, PACKING, objective, **changes)
    return make_learner(POLICY, make_mesh(-1, 1, 1), rule, settings)


def moved_sampler(aggregation="token_mean", seed=0):
    """Make a batch whose sampler differs from the policy by up to 0.9 nats per token, both ways."""
    algorithm = policy_gradient("", Settings(token_aggregation=aggregation))
    batch = collate(GROUPS, **COLLATE | {"packing": PACKING, "algorithm": algorithm})
    logprobs = np.zeros_like(batch.logprobs)
    generator = np.random.default_rng(seed)
    for row, own in zip(logprobs, plain_logprobs(PARAMS, batch), strict=True):
        row[: len(own)] = (
            own + generator.uniform(-0.5, 0.5, len(own)) + generator.uniform(-0.4, 0.4)
        )
    return replace(batch, logprobs=logprobs)


def gradient_of(made, batch, *, params=PARAMS, anchor=None):
    """Return the gradient: with b1 = 0.5, the first moment after one step is half of it."""
    state, metrics = made.update(made.init(params), batch, None, 0.0, 0.0, TEMPERATURE, anchor)
    moments = next(m for m in state.moments if hasattr(m, "mu"))
    return jax.tree.map(lambda m: 2 * np.asarray(m), moments.mu), metrics


@jax.jit
def plain_entropies(params, tokens, length):
    """Return the entropy of every next token of one sequence, from its full logits."""
    decoder = POLICY.decoder(params)
    hidden = decoder(tokens[None], length[None], jnp.dtype("float32")).hidden
    logprobs = jax.nn.log_softmax(hidden[0] @ decoder.head_weight.T / TEMPERATURE)
    return -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)


def plain_entropy(params, batch):
    """Return the entropies of each completion's tokens, one whole sequence at a time."""
    for row, ids in enumerate(batch.completion_ids):
        prompt = row * len(batch.prompt_ids) // len(batch.completion_ids)
        start, count = batch.prompt_lengths[prompt], int(batch.completion_mask[row].sum())
        whole = np.concatenate([batch.prompt_ids[prompt][:start], ids[:count]])
        tokens = jnp.asarray(np.pad(whole, (0, 64 - len(whole))))
        yield plain_entropies(params, tokens, jnp.int32(len(whole)))[start - 1 : len(whole) - 1]


def plain_clipped(params, batch, objective):
    """Compute the clipped loss and the fraction of clipped tokens, completion by completion."""
    settings = objective.algorithm.settings
    total, clipped = 0.0, 0.0
    entropies = plain_entropy(params, batch)
    for row, own in enumerate(plain_logprobs(params, batch)):
        weights, advantage = batch.token_weights[row][: len(own)], batch.advantages[row]
        log_ratio = own - batch.logprobs[row][: len(own)]
        if settings.ratio_level == "sequence":
            log_ratio = jnp.full(len(own), log_ratio.mean())
        ratio = jnp.exp(log_ratio)
        held = jnp.clip(ratio, 1 - settings.clip_low, 1 + settings.clip_high)
        total -= jnp.sum(weights * jnp.minimum(ratio * advantage, held * advantage))
        if objective.entropy_coef:
            total -= objective.entropy_coef * jnp.sum(weights * next(entropies))
        clipped += jnp.sum(ratio * advantage > held * advantage)
    return total, clipped / batch.completion_mask.sum()


@pytest.mark.parametrize(
    ("objective", "aggregation"),
    [(PPO, "token_mean"), (GSPO, "sequence_mean")],
    ids=["PPO, clip-higher", "GSPO with an entropy bonus"],
)
def test_clipped_rules_equal_a_plain_loop(objective, aggregation):
    batch = moved_sampler(aggregation)
    (value, clipped), wanted = jax.value_and_grad(plain_clipped, has_aux=True)(
        PARAMS, batch, objective
    )
    assert 0.1 < clipped < 0.9
    got, metrics = gradient_of(learner(objective), batch)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
    np.testing.assert_allclose(metrics["clip_fraction"], clipped, rtol=1e-5)
    close(got, wanted)


def plain_dpo(params, batch, reference, beta):
    """Compute DPO's loss from whole sequences, pair by pair."""
    sums = [
        own.sum() - row.sum()
        for own, row in zip(plain_logprobs(params, batch), reference, strict=True)
    ]
    losses = []
    for start in range(0, len(sums), 4):
        passed = GROUPS[start // 4].rewards > 0
        for won in np.flatnonzero(passed):
            for lost in np.flatnonzero(~passed):
                h = beta * (sums[start + won] - sums[start + lost])
                losses.append(-jax.nn.log_sigmoid(h))
    return sum(losses) / len(losses)


def test_dpo_has_the_gradient_of_its_plain_loss():
    batch = collate(GROUPS, **COLLATE | {"packing": PACKING, "algorithm": DPO})
    made = learner()
    params = made.init(PARAMS).params
    other = made.init(random_params(POLICY.config, seed=2)).params
    own, reference = (
        np.asarray(made.logprobs(each, batch, TEMPERATURE)) for each in (params, other)
    )
    passed = np.stack([group.rewards > 0 for group in GROUPS])
    dpo = replace(DPO, settings=replace(DPO.settings, dpo_beta=0.5))
    log_ratios = (own - reference).sum(axis=1).reshape(passed.shape)
    advantages, described = pair_advantages(dpo, passed, ~passed, log_ratios)
    value, wanted = jax.value_and_grad(plain_dpo)(PARAMS, batch, reference, 0.5)
    np.testing.assert_allclose(described["loss"], value, rtol=1e-4)
    got, _ = gradient_of(made, replace(batch, advantages=advantages))
    close(got, wanted, rtol=1e-3)  # h is tens of nats, so coefficients are rounded themselves


@pytest.fixture(scope="module")
def anchored():
    """Make a learner with EWC and capped updates, a batch without advantages, and its anchor."""
    made = learner(ewc_coef=3.0, max_update_ratio=1e-3)
    batch = collate(GROUPS, **COLLATE | {"packing": PACKING})
    return (
        made,
        replace(batch, advantages=0 * batch.advantages),
        made.anchor(made.init(PARAMS).params, batch, TEMPERATURE),
    )


def test_fisher_is_the_mean_square_of_each_completions_own_gradient(anchored):
    _, batch, anchor = anchored

    def of(params, row):
        return list(plain_logprobs(params, batch))[row].sum()

    rows = range(len(batch.advantages))
    squares = [jax.tree.map(jnp.square, jax.grad(of)(PARAMS, row)) for row in rows]
    close(anchor.fisher, jax.tree.map(lambda *each: sum(each) / len(each), *squares))
    jax.tree.map(np.testing.assert_array_equal, anchor.params, PARAMS)


def test_ewc_pulls_towards_its_anchor_by_its_fisher(anchored):
    made, batch, anchor = anchored
    got, metrics = gradient_of(made, batch, anchor=anchor)
    assert metrics["ewc_penalty"] == metrics["grad_norm"] == 0
    away = jax.tree.map(lambda p: p + 0.01 * np.sign(p), PARAMS)
    got, metrics = gradient_of(made, batch, params=away, anchor=anchor)

    def plain(params):
        parts = jax.tree.map(
            lambda f, p, a: 3.0 / 2 * jnp.sum(f * (p - a) ** 2), anchor.fisher, params, PARAMS
        )
        return sum(jax.tree.leaves(parts))

    value, wanted = jax.value_and_grad(plain)(jax.tree.map(jnp.asarray, away))
    np.testing.assert_allclose(metrics["ewc_penalty"], value, rtol=1e-4)
    close(got, wanted)


def test_an_update_is_capped_matrix_by_matrix(anchored):
    made, _, anchor = anchored
    batch = collate(GROUPS, **COLLATE | {"packing": PACKING})
    state, metrics = made.update(made.init(PARAMS), batch, None, 1e-2, 0.0, TEMPERATURE, anchor)
    assert metrics["update_capped_fraction"] == 1
    for name in ("q", "down"):
        old, new = PARAMS["blocks"][name], np.asarray(state.params["blocks"][name])
        for before, after in zip(old, new, strict=True):
            ratio = np.linalg.norm(after - before) / np.linalg.norm(before)
            np.testing.assert_allclose(ratio, 1e-3, rtol=1e-2)
    norms = np.abs(np.asarray(state.params["final_norm"]) - PARAMS["final_norm"])
    assert norms.max() > 5e-3  # vectors are not capped


def test_weights_are_averaged_over_updates():
    made = learner(average_decay=0.75)
    batch = collate(GROUPS, **COLLATE | {"packing": PACKING})
    state, wanted = made.init(PARAMS), PARAMS
    jax.tree.map(np.testing.assert_array_equal, state.kept, PARAMS)
    for _ in range(2):
        state, _ = made.update(state, batch, None, 1e-2, 0.0, TEMPERATURE)
        wanted = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * np.asarray(p), wanted, state.params)
    close(state.kept, wanted, rtol=1e-6)
    assert learner().init(PARAMS).averaged is None


def test_an_update_is_skipped_by_the_norm_of_its_gradient():
    made = learner(can_skip=True, average_decay=0.5)
    batch = collate(GROUPS, **COLLATE | {"packing": PACKING})
    state, metrics = made.update(made.init(PARAMS), batch, None, 1e-2, 0.0, TEMPERATURE)
    assert metrics["update_skipped"] == 0 < metrics["update_norm"]
    before = jax.tree.map(np.array, state)
    norm = float(metrics["grad_norm"])
    for most, skipped in ((0.01 * norm, 1), (-1.0, 1), (100 * norm, 0)):
        state, metrics = made.update(
            state, batch, None, 1e-2, 0.0, TEMPERATURE, most_norm=most
        )  # fmt: skip
        assert metrics["update_skipped"] == skipped
        assert (metrics["update_norm"] == 0) == skipped
        if skipped:
            jax.tree.map(np.testing.assert_array_equal, state, before)
    assert not np.array_equal(state.params["blocks"]["q"], before.params["blocks"]["q"])


def test_an_entropy_bonus_may_follow_the_entropy():
    batch = moved_sampler()
    fixed = learner(replace(PPO, entropy_coef=0.05))
    follows = learner(replace(PPO, follows_entropy=True))
    wanted, _ = gradient_of(fixed, batch)
    state, _ = follows.update(
        follows.init(PARAMS), batch, None, 0.0, 0.0, TEMPERATURE, entropy_coef=0.05
    )
    moments = next(m for m in state.moments if hasattr(m, "mu"))
    close(jax.tree.map(lambda m: 2 * np.asarray(m), moments.mu), wanted)


def test_a_loss_scale_by_hand():
    for largest, wanted in ((1.0, 1), (0.5, 2), (1.5, 1), (3.0, 0.5), (3e-6, 2**19), (0.0, 1)):
        weights = jnp.array([[largest, 0.1 * largest]])
        assert loss_scale(weights) == wanted
    assert all(1 <= loss_scale(jnp.array([w])) * w < 2 for w in (1e-9, 0.7, 123.0))


def test_in_float16_the_gradient_of_many_tokens_is_not_rounded_to_nothing():
    """Scale the weights as in a batch with 2^15 times as many tokens, each of less weight."""
    batch = collate(GROUPS, **COLLATE | {"packing": PACKING})
    faint = replace(batch, token_weights=batch.token_weights * np.float32(2.0**-15))
    rule = make_optimizer(**OPTIMIZER | {"b1": 0.5})
    settings = LearnSettings("float16", 16, PACKING)
    made = make_learner(POLICY, make_mesh(-1, 1, 1), rule, settings)
    wanted, _ = gradient_of(learner(), batch)
    got, metrics = gradient_of(made, batch)
    close(got, wanted, rtol=1e-2)
    small, again = gradient_of(made, faint)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(2.0**15 * a, b), small, got)
    assert again["loss"] * 2.0**15 == metrics["loss"]


def test_caps_by_hand():
    params = {
        "embedding": jnp.array([[3.0, 4.0]]),
        "final_norm": jnp.zeros(2),
        "blocks": {"q": jnp.array([[[1.0]], [[10.0]]]), "q_bias": jnp.zeros((2, 1))},
    }
    updates = jax.tree.map(jnp.ones_like, params)
    got, fraction = cap_updates(updates, params, 0.2)
    # |embedding| = 5 and its update sqrt 2, so that 1 is left of that; q's layers have 1 and 10.
    np.testing.assert_allclose(got["embedding"], [[2**-0.5, 2**-0.5]], rtol=1e-6)
    np.testing.assert_allclose(got["blocks"]["q"], [[[0.2]], [[1.0]]], rtol=1e-6)
    assert got["final_norm"].tolist() == [1, 1]
    assert got["blocks"]["q_bias"].tolist() == [[1], [1]]
    assert fraction == pytest.approx(2 / 3)
    still, fraction = cap_updates(jax.tree.map(jnp.zeros_like, params), params, 0.2)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(still)) == fraction == 0


def test_an_adapters_two_matrices_share_one_cap():
    params = {"blocks": {"q_a": jnp.array([[[3.0, 4.0]]]), "q_b": jnp.zeros((1, 2, 1))}}
    updates = {"blocks": {"q_a": jnp.zeros((1, 1, 2)), "q_b": jnp.array([[[6.0], [8.0]]])}}
    got, fraction = cap_updates(updates, params, 0.1)
    np.testing.assert_allclose(got["blocks"]["q_b"], [[[0.3], [0.4]]], rtol=1e-6)  # 0.1 x 5
    assert fraction == 1


MESHES = """
    import json
    from tests.learn import test_rules as t
    print(json.dumps(t.everything((2, 2, 2))))
"""


def everything(shape):
    """Return the metrics of an update of adapters with every rule on, on a mesh."""
    rule = make_optimizer(**OPTIMIZER)
    settings = LearnSettings("float32", 16, PACKING, GSPO, ewc_coef=1.0, max_update_ratio=1e-2)
    generator = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda a: 0.1 * generator.standard_normal(a.shape, np.float32),
        random_adapters(POLICY, RANK, generator),
    )
    made = make_learner(POLICY, make_mesh(*shape), rule, settings, Lora(RANK, ALPHA, PARAMS))
    batch = moved_sampler()
    state = made.init(adapters)
    anchor = made.anchor(state.params, batch, TEMPERATURE)
    split = anchor.fisher["blocks"]["gate_a"].sharding == state.params["blocks"]["gate_a"].sharding
    numbers = [float(sum(np.asarray(f).sum() for f in jax.tree.leaves(anchor.fisher)))]
    for _ in range(2):
        state, metrics = made.update(state, batch, None, 1e-2, 0.0, TEMPERATURE, anchor)
    names = ("loss", "clip_fraction", "ewc_penalty", "grad_norm", "update_norm")
    return [split, *numbers, *(float(metrics[name]) for name in names)]


def test_a_mesh_changes_nothing(on_eight_devices):
    split, *got = json.loads(on_eight_devices(MESHES))
    assert split
    wanted = everything((1, 1, 1))[1:]
    assert min(wanted[1:]) != 0
    np.testing.assert_allclose(got, wanted, rtol=1e-3)
