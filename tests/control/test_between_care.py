"""Full CARE: posteriors, gates and revisions worked out by hand, and a chain of them.

Constants are the config's defaults: prior_sd 0.1, noise_sd 0.05 (variance 0.0025), epsilon 0.05,
alpha 0.4, lambda 0.1, beta 0.95.
"""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from selfreg.control import effects, posterior
from selfreg.control.effects import Cone
from selfreg.control.find import find_between
from selfreg.control.strategy import FULL, Strategy
from selfreg.control.transfer import Candidate, Levels, choose, route
from selfreg.run.records import Answer, Checkpoint, to_json
from tests.control.between_scripts import base, run, trace

CARE = find_between("care")
NOISE, PRIOR = 0.05, 0.1


def predicted(contexts, deltas, variances, at):
    k = len(at)
    learned = posterior.fit(
        np.reshape(contexts, (-1, k)), np.reshape(deltas, (-1, k)), np.array(variances), PRIOR
    )
    return posterior.predict(learned, np.array(at), NOISE)


# --- Posterior ------------------------------------------------------------------------------------


def test_one_capability_by_hand():
    # phi = (1, 0.3), phi.phi = 1.09: the effect's variance is 0.01 x 1.09 = 0.0109 beforehand.
    before = predicted([], [], [], [0.3])
    assert before.mean == [0.0]
    assert before.sd**2 == pytest.approx([0.0109 + 0.0025])
    # One observation of +0.1 there: gain 0.0109 / 0.0134.
    after = predicted([[0.3]], [[0.1]], [0.0025], [0.3])
    assert after.mean == pytest.approx([0.1 * 0.0109 / 0.0134])  # 0.0813
    assert after.sd**2 == pytest.approx([0.0109 * 0.0025 / 0.0134 + 0.0025])  # 0.00453
    # And one of -0.1 with noise inflated to 0.0125: precisions 1/0.0109, 400 and 80 add up.
    twice = predicted([[0.3], [0.3]], [[0.1], [-0.1]], [0.0025, 0.0125], [0.3])
    precision = 1 / 0.0109 + 400 + 80
    assert twice.mean == pytest.approx([(400 * 0.1 - 80 * 0.1) / precision])  # 0.0560
    assert twice.sd**2 == pytest.approx([1 / precision + 0.0025])


def test_two_capabilities_by_hand():
    # phi = (1, 0.3, 0.4), phi.phi = 1.25: variance 0.0125, gain 0.0125 / 0.015 = 5/6.
    after = predicted([[0.3, 0.4]], [[0.10, -0.08]], [0.0025], [0.3, 0.4])
    assert after.mean == pytest.approx([0.5 / 6, -0.4 / 6])
    variance = 0.0125 * 0.0025 / 0.015 + 0.0025
    assert after.sd == pytest.approx([math.sqrt(variance)] * 2)  # 0.0677
    # Elsewhere, at (0.5, 0.2): phi.phi' = 1.23 and phi'.phi' = 1.29.
    other = predicted([[0.3, 0.4]], [[0.10, -0.08]], [0.0025], [0.5, 0.2])
    assert other.mean == pytest.approx([0.82 * 0.10, -0.82 * 0.08])  # 0.01 x 1.23 / 0.015
    assert other.sd**2 == pytest.approx([0.0129 - 0.0123**2 / 0.015 + 0.0025] * 2)
    # Phi((-0.05 - 0.0833) / 0.0677) and Phi((-0.05 + 0.0667) / 0.0677), by a table: 0.0245, 0.597.
    risks = posterior.regression_probability(after, 0.05)
    assert risks == pytest.approx([0.0245, 0.5972], abs=1e-4)


def test_distances_and_limits_by_hand():
    before = predicted([], [], [], [0.3, 0.4])  # variance 0.015 each
    assert posterior.squared_distance([0.1, -0.3], before) == pytest.approx(0.10 / 0.015)
    assert posterior.surprise_limit(1, 0.95) == pytest.approx(3.8415, abs=1e-4)
    assert posterior.surprise_limit(2, 0.95) == pytest.approx(5.9915, abs=1e-4)
    assert posterior.surprise_limit(2, 0.5) == pytest.approx(2 * math.log(2))


RATE = st.floats(0, 1)


@given(
    st.integers(1, 3).flatmap(
        lambda k: st.tuples(
            st.lists(st.tuples(*[RATE] * (2 * k), st.floats(0.001, 0.5)), max_size=6),
            st.tuples(*[RATE] * k),
        )
    )
)
def test_the_posterior_is_a_gaussian_conditioned_on_what_was_seen(drawn):
    # The same model as a Gaussian process with the kernel prior_sd^2 (1 + x.x'): other formulas.
    rows, at = drawn
    k = len(at)
    x = np.array([row[:k] for row in rows]).reshape(-1, k)
    y = np.array([row[k : 2 * k] for row in rows]).reshape(-1, k)
    noise = np.array([row[-1] for row in rows])
    made = predicted(x, y, noise, at)
    cross = PRIOR**2 * (1 + x @ np.array(at))
    gram = PRIOR**2 * (1 + x @ x.T) + np.diag(noise)
    mean = cross @ np.linalg.solve(gram, y)
    variance = PRIOR**2 * (1 + np.dot(at, at)) - cross @ np.linalg.solve(gram, cross) + NOISE**2
    np.testing.assert_allclose(made.mean, mean, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(made.sd**2, np.full(k, variance), rtol=1e-7)


# --- Gate -----------------------------------------------------------------------------------------

LEVELS = Levels(alpha=0.4, gamma_low=0.3, gamma_high=0.6, context_distance=0.1)


def candidate(p_max=0.1, confidence=0.0, distance=0.0, inside=True, mean=0.0, is_new=False, lr=1.0):
    return Candidate(Strategy(lr), mean, p_max, confidence, distance, inside, is_new)


@pytest.mark.parametrize(
    ("p_max", "confidence", "distance", "inside", "action"),
    [
        (0.41, 0.9, 0.0, True, "reject"),  # before all else
        (0.41, 0.0, 9.0, False, "reject"),
        (0.40, 0.61, 0.0, True, "reuse"),  # alpha itself passes
        (0.1, 0.61, 9.0, True, "reuse"),  # before adapt
        (0.1, 0.60, 0.11, True, "adapt"),
        (0.1, 0.60, 0.10, True, "pilot"),  # no case of the paper's
        (0.1, 0.30, 0.11, True, "pilot"),  # little confidence
        (0.1, 0.9, 0.0, False, "pilot"),  # beyond the boundary
        (0.1, 0.5, 9.0, False, "pilot"),
        (0.1, 0.0, math.inf, True, "pilot"),  # never tried
    ],
)
def test_routes_by_hand(p_max, confidence, distance, inside, action):
    assert route(candidate(p_max, confidence, distance, inside), LEVELS) == action


@given(RATE, RATE, st.floats(0, 2) | st.just(math.inf), st.booleans())
def test_routing_is_total(p_max, confidence, distance, inside):
    # Every case written out with what excludes it: exactly one of them holds.
    safe = p_max <= 0.4
    reuse = safe and inside and confidence > 0.6
    adapt = safe and inside and 0.3 < confidence <= 0.6 and distance > 0.1
    pilot = safe and (
        not inside or confidence <= 0.3 or (0.3 < confidence <= 0.6 and distance <= 0.1)
    )
    holding = {"reject": not safe, "reuse": reuse, "adapt": adapt, "pilot": pilot}
    assert sum(holding.values()) == 1
    assert holding[route(candidate(p_max, confidence, distance, inside), LEVELS)]


def test_the_best_that_is_not_rejected():
    reused = candidate(confidence=0.9, mean=0.01, lr=1.0)
    better = candidate(confidence=0.9, mean=0.02, lr=2.0)
    old = candidate(mean=0.5, lr=0.5)
    new = candidate(mean=0.0, is_new=True, lr=0.25)
    rejected = candidate(p_max=0.9, confidence=0.9, mean=9.0, lr=4.0)
    assert choose([rejected, old, new, reused, better], LEVELS) == (better, "reuse")
    assert choose([rejected, old, new], LEVELS) == (new, "pilot")  # before an old pilot
    assert choose([rejected, old], LEVELS) == (old, "pilot")
    equal = reused._replace(strategy=Strategy(9.0))
    assert choose([reused, equal], LEVELS)[0] is reused  # the earlier
    assert choose([rejected], LEVELS) is None


# --- Boundary and confidence ----------------------------------------------------------------------


def holding(cone, **context):
    return not effects.is_inside([SimpleNamespace(cone=Cone(*cone))], context, 30.0)


def test_a_cone_of_one_capability_is_a_half_line():
    # "harmful when positive_rate > 0.4": safe at 0.4, regressed at 0.6.
    cone = ({"main": 0.4}, {"main": 0.6})
    assert holding(cone, main=0.5)
    assert holding(cone, main=0.9)
    assert not holding(cone, main=0.3)
    assert not holding(cone, main=0.4)  # the safe context itself stays safe


def test_a_cone_of_two_capabilities_opens_by_its_angle():
    # Apex (0.2, 0.2), axis along the first coordinate, 30 degrees: slope tan 30 = 0.577.
    cone = ({"a": 0.2, "b": 0.2}, {"a": 0.4, "b": 0.2})
    assert holding(cone, a=0.3, b=0.2 + 0.1 * 0.57)
    assert not holding(cone, a=0.3, b=0.2 + 0.1 * 0.58)
    assert not holding(cone, a=0.1, b=0.2)
    point = ({"a": 0.2, "b": 0.2}, {"a": 0.2, "b": 0.2})  # it regressed where it was safe
    assert holding(point, a=0.2, b=0.2)
    assert not holding(point, a=0.2, b=0.3)


def test_confidence_by_hand():
    deltas = np.array([[0.1, 0.0], [0.0, 0.2]])
    foretold = np.array([[0.1, 0.0], [0.0, 0.1]])
    # Errors 0 and 0.01 of 0.04 + 0.001: 1 - (0 + 0.2439) / 2.
    assert effects.confidence(deltas, foretold) == pytest.approx(1 - 0.01 / 0.041 / 2)
    assert effects.confidence(deltas, -5 * deltas) == 0.0  # 1 - 36: clipped
    assert effects.confidence(deltas, deltas) == 1.0
    assert effects.confidence(np.zeros((1, 2)), np.zeros((1, 2))) == 1.0


# --- Chains ---------------------------------------------------------------------------------------


def campaign(state, main, cpp, end=None):
    """Observe a campaign: main from start to peak (and end), cpp from start to peak."""
    values = [main[0], main[1], main[1] if end is None else end]
    start = state.campaign
    return CARE.observe(state, trace(values, start, cpp=cpp))


def test_a_surprise_that_regresses_is_revised_by_hand():
    state = campaign(CARE.start(base()), (0.3, 0.4), (0.4, 0.1))
    (effect,) = state.effects
    assert effect.context == {"main": 0.3, "cpp": 0.4}
    assert effect.delta == pytest.approx({"main": 0.1, "cpp": -0.3})
    assert effect.predicted == {"main": 0.0, "cpp": 0.0}
    # 0.10 / 0.015 = 6.67 is above 5.99; its root, which the paper compares, is not.
    assert effect.distance_squared == pytest.approx(6.6667, abs=1e-4)
    assert effect.regression_probability == pytest.approx(ndtr(-0.05 / math.sqrt(0.015)))  # 0.3415
    # It seemed safe, 0.34 <= 0.4: a cone.
    assert effect.cone == Cone({"main": 0.0, "cpp": 0.0}, effect.context)
    assert effect.variance == pytest.approx(0.0025 + (0.01 + 0.09) / 2)
    assert effect.confidence == pytest.approx(1 - 0.1 / 0.101)
    assert state.alpha == pytest.approx(0.4 * math.exp(-0.1))  # one protected capability fell
    assert effect.revision == "surprised; fallen: cpp; alpha 0.3619"
    # In the same context: gain 0.0125 / (0.0125 + 0.0525) of cpp's -0.3 is -0.0577, variance
    # 0.0125 x 0.0525 / 0.065 + 0.0025 = 0.0126: p_max = Phi(0.0077 / 0.1122) = 0.527, a reject.
    again = effects.predict(state.effects, effect.context, NOISE, PRIOR)
    assert again.mean == pytest.approx([0.1 / 5.2, -0.3 / 5.2])
    assert posterior.regression_probability(again, 0.05)[1] == pytest.approx(0.5273, abs=1e-4)


def test_an_effect_within_the_limit_revises_nothing():
    # (0.01 + 0.04) / 0.015 = 3.3 is below 5.99, though cpp fell by four epsilons.
    state = campaign(CARE.start(base()), (0.3, 0.4), (0.4, 0.2))
    (effect,) = state.effects
    assert (effect.cone, effect.variance, effect.revision) == (None, pytest.approx(0.0025), "")
    assert state.alpha == 0.4


def test_a_good_surprise_costs_no_alpha():
    state = campaign(CARE.start(base()), (0.3, 0.7), (0.4, 0.4))  # 0.16 / 0.015 = 10.7
    (effect,) = state.effects
    assert effect.revision == "surprised; fallen: none; alpha 0.4000"
    assert (effect.cone, state.alpha) == (None, 0.4)
    assert effect.variance == pytest.approx(0.0025 + 0.08)


def test_only_protected_capabilities_count():
    state = campaign(CARE.start(base(protected=("main",))), (0.3, 0.4), (0.4, 0.1))
    assert (state.alpha, state.effects[0].cone) == (0.4, None)


def test_what_was_risky_beforehand_cuts_no_cone():
    state = campaign(CARE.start(base(alpha=0.3)), (0.3, 0.4), (0.4, 0.1))  # 0.34 > 0.3
    assert state.effects[0].cone is None
    assert state.alpha == pytest.approx(0.3 * math.exp(-0.1))


def test_the_cone_starts_at_the_nearest_harmless_context():
    own = [SimpleNamespace(context={"main": value}) for value in (0.1, 0.4, 0.5)]
    cone = effects.cone_of(own, {"main": 0.6}, [True, True, False])
    assert cone == Cone({"main": 0.4}, {"main": 0.6})
    assert effects.cone_of(own, {"main": 0.6}, [False] * 3).apex == {"main": 0.0}


def test_one_capability_is_reused_once_it_is_foretold():
    # K = 1, one strategy (the rules say "the same again" while it gains and does not collapse).
    state = CARE.start(base(capabilities=()))
    actions, level = [], 0.30
    for _ in range(5):
        values = [level, level + 0.08, level + 0.08]
        state = CARE.observe(state, trace(values, state.campaign))
        level += 0.08
        actions.append((state.order.action, state.order.budget_steps))
    # gamma is low after an unforetold gain (a pilot), and grows with every one that was foretold.
    assert actions[0] == ("pilot", 10)
    assert actions[-1] == ("reuse", 20)
    grown = [effect.confidence for effect in state.effects]
    assert grown == sorted(grown)
    assert {effect.strategy for effect in state.effects} == {Strategy()}
    assert state.order.start == Checkpoint(4, 1)


def test_first_two_confidences_of_that_chain_by_hand():
    state = CARE.start(base(capabilities=()))
    state = CARE.observe(state, trace([0.3, 0.38], 0))
    # ||0.08||^2 = 0.0064: gamma = 1 - 0.0064 / 0.0074.
    assert state.effects[0].confidence == pytest.approx(1 - 0.0064 / 0.0074)
    state = CARE.observe(state, trace([0.3, 0.38], 1))  # the same context again
    foretold = 0.08 * 0.0109 / 0.0134
    assert state.effects[1].predicted["main"] == pytest.approx(foretold)
    error = (0.08 - foretold) ** 2
    gamma = 1 - (0.0064 / 0.0074 + error / 0.0074) / 2
    assert state.effects[1].confidence == pytest.approx(gamma)


def test_when_everything_is_rejected_the_base_is_piloted():
    state = campaign(CARE.start(base(alpha=0.01)), (0.3, 0.4), (0.4, 0.1))
    plan = CARE.plan(state)
    assert (plan.action, plan.budget_steps, plan.lr, plan.kl_coef) == ("reject", 10, 1e-6, 0.0)
    assert (plan.temperature, plan.group_size, plan.start) == (None, None, Checkpoint(0, 1))


def test_a_strategy_that_is_known_elsewhere_is_adapted():
    # Two foretold gains at 0.3 give confidence; then the context jumps by 0.4.
    state = CARE.start(base(capabilities=(), gamma_low=0.05, gamma_high=0.9))
    state = replace(state, strategy=Strategy(2.0, 0.05))
    state = CARE.observe(state, trace([0.3, 0.38, 0.38], 0))
    assert state.effects[0].confidence > 0.05
    state = replace(state, strategy=Strategy(2.0, 0.05))
    state = CARE.observe(state, trace([0.3, 0.7, 0.7], 1))
    plan = CARE.plan(state)
    assert (plan.action, plan.budget_steps) == ("adapt", 20)
    assert (plan.lr, plan.kl_coef) == (pytest.approx(2**0.5 * 1e-6), 0.025)
    assert state.strategy == Strategy(2.0, 0.05)  # the memory keeps it as what was transferred


@pytest.mark.parametrize("proposer", ["rules", "random", "pareto", "llm"])
def test_every_proposer_drives_a_chain(proposer):
    states = run("care", given=base(proposer=proposer))
    for state in states[1:]:
        plan = CARE.plan(state)
        assert plan.action in {"reuse", "adapt", "pilot", "reject"}
        assert plan.start.campaign == state.campaign - 1
        json.dumps(to_json(state), allow_nan=False)
    assert states == run("care", given=base(proposer=proposer))


def test_memory_is_readable_and_read_again():
    state = run("care")[-1]
    memory = json.loads(json.dumps(to_json(CARE.remember(state))))
    assert set(memory["entries"][0]["delta"]) == {"main", "cpp"}
    again = CARE.start(base(memory=memory))
    assert (again.effects, again.alpha) == (state.effects, state.alpha)
    with pytest.raises(ValueError, match=r"\('main', 'cpp'\), this chain of \('main',\)"):
        CARE.start(base(memory=memory, capabilities=()))
    with pytest.raises(ValueError, match="'gate' wrote it, and 'care' reads only its own kind"):
        CARE.start(base(memory={"control": "gate", "entries": []}))
    with pytest.raises(ValueError, match="not as 'care' writes it"):
        CARE.start(base(memory={"control": "care", "entries": [{"campaign": 0}]}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protected": ("main", "ood")}, r"config.control.protected names \['ood'\]"),
        ({"gamma_low": 0.7}, r"config.control.gamma_low=0.7 is above config.control.gamma_high"),
        ({"proposer": "oracle"}, r"config.control.proposer='oracle': one of rules, random"),
    ],
)
def test_impossible_options_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        CARE.start(base(**changes))


# --- A language model -----------------------------------------------------------------------------

CHOICE = {"lr_factor": 2.0, "kl_coef": 0.01, "budget_factor": 0.5, "temperature_factor": 1.25,
          "group_factor": 0.5}  # fmt: skip


def test_the_model_is_asked_when_nothing_transfers_and_its_strategy_is_piloted():
    state = CARE.start(base(proposer="llm"))
    assert CARE.ask(state) is None  # nothing is known before the first campaign
    state = campaign(state, (0.3, 0.4), (0.4, 0.4))
    question = CARE.ask(state)
    assert "main 0.100, cpp 0.000" in question
    assert all(name in question for name in FULL)
    told = CARE.hear(state, Answer(json.dumps(CHOICE), prompt_tokens=50))
    plan = CARE.plan(told)
    assert (plan.action, plan.lr, plan.kl_coef, plan.budget_steps) == ("pilot", 2e-6, 0.01, 10)
    assert (plan.temperature, plan.group_size) == (0.875, 8)
    assert told.strategy == Strategy(**CHOICE)
    assert CARE.remember(told)["asked"]["prompt_tokens"] == 50
    for text, why in (("no", "Expecting value"), (json.dumps({**CHOICE, "lr_factor": 9}), "9 is")):
        refused = CARE.hear(state, Answer(text))
        assert refused.strategy == state.strategy
        assert replace(refused.order, reason="") == replace(state.order, reason="")
        assert why in CARE.remember(refused)["asked"]["failures"][0]


def test_nobody_is_asked_while_a_strategy_transfers():
    state = CARE.start(base(proposer="llm", capabilities=()))
    for level in itertools.accumulate([0.3, 0.08, 0.08, 0.08, 0.08]):
        state = CARE.observe(state, trace([level, level + 0.08], state.campaign))
    assert state.order.action == "reuse"
    assert CARE.ask(state) is None


def test_the_model_cannot_have_what_the_gate_rejects():
    # After the fall of cpp its own strategy is rejected in this context, whoever proposes it.
    state = campaign(CARE.start(base(proposer="llm", alpha=0.36)), (0.3, 0.4), (0.4, 0.1))
    same = json.dumps({name: getattr(Strategy(), name) for name in FULL})
    state = replace(state, context={"main": 0.3, "cpp": 0.4})
    told = CARE.hear(state, Answer(same))
    assert told.order.action == "reject"
