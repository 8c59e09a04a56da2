"""The guard on hand-made runs, and compared with a plain loop over its documented formulas."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg.guard import (
    Confirmed,
    Logged,
    Look,
    Restored,
    Settings,
    Source,
    Verdict,
    from_json,
    logged,
    observe,
    start,
    to_json,
)
from selfreg.guard.signflip import log_p
from selfreg.guard.weights import GAPS, anytime, over_time

PANEL = Settings(planned=40)
LOG = Settings(source=Source.LOG, planned_steps=400)


def collapsing(looks=40, change=20, fall=0.3, problems=96, samples=4, seed=0):
    """Draw rates [looks, problems] that are constant, and then lower by `fall`."""
    rng = np.random.default_rng(seed)
    rates = np.tile(rng.beta(3, 2, problems), (looks, 1))
    rates[change:] = np.clip(rates[change:] - fall, 0, 1)
    return rng.binomial(samples, rates) / samples


def watch(rates, chosen=PANEL):
    """Return the state and the decision after each look; steps are 10 apart."""
    state, made = start(chosen), []
    for look, row in enumerate(rates):
        state, decision = observe(state, Look(10 * look, row))
        made.append(decision)
    return state, made


def first_alarm(decisions):
    """Return the index of the first alarm, or None."""
    return next((i for i, d in enumerate(decisions) if d.verdict is Verdict.ALARM), None)


# --- The panel ------------------------------------------------------------------------------------


def test_a_collapse_alarms_at_once_and_names_the_best_checkpoint():
    _, made = watch(collapsing(fall=0.4))
    assert first_alarm(made) == 20
    alarm = made[20]
    assert alarm.log_evidence >= 0
    assert alarm.reference <= 190
    assert alarm.since == 200
    assert alarm.fall == pytest.approx(0.35, abs=0.08)  # rates below 0.4 have less to lose
    assert (alarm.episode, alarm.level) == (1, 0.05)


@pytest.mark.parametrize("fall", [0.0, -0.3])
def test_no_alarm_without_a_fall(fall):
    _, made = watch(collapsing(fall=fall))
    assert first_alarm(made) is None
    assert all(d.log_evidence < 0 for d in made)


def test_a_fall_within_the_margin_does_not_count():
    _, made = watch(collapsing(fall=0.3), replace(PANEL, margin=0.35))
    assert first_alarm(made) is None


def scalar_evidence(rates, chosen):
    """Compute the largest log(weight / p) of the last look, term by term."""
    t, best = len(rates), -math.inf
    rows, length, j = [], 1, 0
    while 2 * length <= t:
        stride = max(1, length // 4)
        if t % stride == 0:
            for gap in GAPS:
                end = t - length - gap * length
                if end >= length:
                    rows.append((length, end, stride / math.sqrt(j + 1)))
        length, j = 2 * length, j + 1
    for length, end, share in rows:
        falls = []
        for problem in range(rates.shape[1]):
            before = sum(rates[look][problem] for look in range(end - length, end)) / length
            now = sum(rates[look][problem] for look in range(t - length, t)) / length
            falls.append(before - now - chosen.margin)
        z = sum(falls) / math.sqrt(sum(fall * fall for fall in falls))
        bound = min(1.0, 3.1787 * 0.5 * math.erfc(z / math.sqrt(2)))
        omega = over_time(t - 1, chosen.planned - 1, 0.9)
        weight = omega * share / sum(s for *_, s in rows)
        lower = math.log(weight) - math.log(bound)
        exact = math.log(weight) - log_p(np.array(falls))
        best = max(best, lower, exact if lower + math.log(0.05) > -4 else lower)
    return best + math.log(chosen.alpha)


def test_the_fast_core_equals_a_plain_loop_over_the_formulas():
    rates = collapsing(looks=36, change=30, fall=0.08, problems=24, samples=2, seed=3)
    _, made = watch(rates)
    largest = -math.inf
    for look in range(1, len(rates)):
        largest = max(largest, scalar_evidence(rates[: look + 1], PANEL))
        assert made[look].log_evidence == pytest.approx(largest, abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.permutations(range(20)))
def test_the_order_of_problems_does_not_matter(seed, order):
    rates = collapsing(looks=6, change=4, problems=20, seed=seed)
    evidence = [watch(r)[1][-1].log_evidence for r in (rates, rates[:, order])]
    assert evidence[0] == pytest.approx(evidence[1], abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(-5, 5), st.sampled_from([0.5, 2.0, 100.0]))
def test_evidence_does_not_depend_on_scale_or_origin_of_rewards(seed, shift, unit):
    rates = collapsing(looks=6, change=4, problems=20, seed=seed)
    moved = watch(rates * unit + shift, replace(PANEL, margin=0.02 * unit))[1][-1]
    assert moved.log_evidence == pytest.approx(watch(rates)[1][-1].log_evidence, abs=1e-3)


def test_a_lower_alpha_alarms_no_sooner():
    rates = collapsing(fall=0.12)
    at = [first_alarm(watch(rates, replace(PANEL, alpha=a))[1]) for a in (0.2, 0.05, 0.001)]
    assert at == sorted(at)
    assert at[0] is not None


# --- State ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [PANEL, replace(PANEL, source=Source.BOTH, confirm=True)])
def test_a_state_read_back_continues_exactly(chosen):
    rates = collapsing(fall=0.15)
    state, read = start(chosen), start(chosen)
    for look, row in enumerate(rates):
        seen = [Look(look, row)]
        if chosen.source is Source.BOTH:
            seen.append(Logged(look, float(row.mean())))
        for each in seen:
            state, decision = observe(state, each)
            read, again = observe(from_json(to_json(read)), each)
            assert again == decision
    assert to_json(read) == to_json(state)
    assert json.loads(to_json(state))["steps"] == list(range(40))


def test_a_state_of_2000_looks_is_small():
    state = start(PANEL)
    rows = np.random.default_rng(0).random((2000, 96))
    full = replace(
        state, steps=np.arange(2000), sums=np.vstack([np.zeros((1, 96)), rows.cumsum(axis=0)])
    )
    assert len(to_json(full)) < 5e6


def test_a_broken_state_is_refused():
    with pytest.raises(ValueError, match="not a state of the guard"):
        from_json('{"episode": 1}')


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ([Look(0, [0.5] * 20), Look(0, [0.5] * 20)], "look of step 0 follows that of step 0"),
        ([Look(0, [0.5] * 20), Look(1, [0.5] * 21)], "has 21 problems, earlier looks had 20"),
        ([Look(0, [math.nan] * 20)], "finite number"),
        ([Look(0, [])], "finite number"),
        ([Look(0, [0.5] * 8)], r"8 problems could never alarm.*at least 1\d problems"),
        ([Logged(0, 0.5)], "settings.source is 'panel'"),
        ([Restored(0)], "settings.restores=0 are used up"),
        ([Confirmed(0, [0.5], [0.5])], "nobody asked for"),
    ],
)  # fmt: skip
def test_impossible_observations_are_refused(seen, words):
    state = start(PANEL)
    for each in seen[:-1]:
        state, _ = observe(state, each)
    with pytest.raises(ValueError, match=words):
        observe(state, seen[-1])


@pytest.mark.parametrize(
    "changes",
    [{"alpha": 0.0}, {"alpha": 1.0}, {"margin": -1.0}, {"planned": 1}, {"restores": -1},
     {"source": Source.LOG, "confirm": True}],
)  # fmt: skip
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes)) if len(changes) == 1 else "confirm"):
        Settings(**changes)


# --- Episodes and confirmations -------------------------------------------------------------------


def test_a_restore_begins_an_episode_with_its_part_of_alpha():
    chosen = replace(PANEL, restores=1)
    state, made = watch(collapsing(fall=0.4)[:21], chosen)
    assert made[-1].verdict is Verdict.ALARM
    assert made[-1].level == 0.025
    state, decision = observe(state, Restored(made[-1].reference))
    assert (decision.verdict, decision.episode) == (Verdict.CONTINUE, 2)
    assert decision.reference is None  # the restored policy has not been measured yet
    for look, row in enumerate(collapsing(fall=0.4, seed=1)):
        state, decision = observe(state, Look(made[-1].reference + look, row))
        if decision.verdict is Verdict.ALARM:
            break
    assert look == 20
    with pytest.raises(ValueError, match="used up"):
        observe(state, Restored(0))


def test_a_confirmation_is_asked_for_once_and_decides():
    chosen = replace(PANEL, planned=200, confirm=True)
    rates = collapsing(fall=0.1)
    state, asked = start(chosen), None
    for look, row in enumerate(rates):
        state, decision = observe(state, Look(look, row))
        if decision.verdict is Verdict.CONFIRM:
            asked = look
            break
    assert asked is not None
    assert asked >= 20
    waiting, again = observe(state, Look(asked + 1, rates[asked + 1]))
    assert again.verdict is not Verdict.CONFIRM  # one question at a time
    rng = np.random.default_rng(5)
    before = rng.binomial(8, 0.6, 96) / 8
    for now, verdict in ((before, Verdict.CONTINUE), (before - 0.2, Verdict.ALARM)):
        answered, decision = observe(waiting, Confirmed(asked + 1, before, now))
        assert decision.verdict is verdict
        assert not answered.waits
    falls = np.full(96, 0.2 - 0.02)
    evidence = math.log(anytime(1)) - log_p(falls) + math.log(0.5 * 0.05)
    assert decision.log_evidence == pytest.approx(evidence, abs=0.01)


# --- The log --------------------------------------------------------------------------------------


def follow(rewards, chosen=LOG):
    """Return the decision after each logged step."""
    state, made = start(chosen), []
    for step, reward in enumerate(rewards):
        state, decision = observe(state, Logged(step, reward))
        made.append(decision)
    return made


def test_a_collapse_of_the_log_alarms_and_a_rise_does_not():
    rng = np.random.default_rng(0)
    mean = np.r_[np.full(120, 0.6), np.full(80, 0.3)]
    noise = rng.normal(0, 0.04, 200)
    at = first_alarm(follow(mean + noise))
    assert 120 < at <= 132
    assert first_alarm(follow(mean[::-1] + noise)) is None
    assert first_alarm(follow(0.6 + noise)) is None


def test_e_has_a_mean_of_one_at_most_over_all_orders():
    """For any values, average E over every choice of P among the rewards."""
    from itertools import combinations

    rng = np.random.default_rng(0)
    for values in (rng.random(9), np.r_[np.zeros(8), 1.0], np.r_[np.ones(6), np.zeros(3)]):
        for s in (0.5, 3.0, 30.0):
            e = [
                math.exp(logged.log_e(np.delete(values, chosen), values[list(chosen)], s))
                for chosen in combinations(range(9), 3)
            ]
            assert np.mean(e) <= 1 + 1e-9


def test_e_by_hand():
    """R = {1, 1}, P = {0}, s = ln 2: e^0 over the mean of 1/2, 1/2 and 1, which is 2/3."""
    value = logged.log_e(np.ones(2), np.zeros(1), math.log(2))
    assert value == pytest.approx(math.log(3 / 2))


def test_correlated_steps_temper_the_evidence():
    rng = np.random.default_rng(1)
    white = rng.normal(0, 1, 400)
    alike = np.zeros(400)
    for i in range(1, 400):
        alike[i] = 0.9 * alike[i - 1] + white[i]
    assert logged.alikeness(white) < 3
    assert logged.alikeness(alike) > 8
    assert logged.alikeness(white[:30]) == 1.0


def test_panel_and_log_share_alpha():
    chosen = replace(PANEL, source=Source.BOTH)
    state, decision = observe(start(chosen), Look(0, [0.5] * 20))
    for i in range(1, 30):
        state, decision = observe(state, Logged(i, 0.5 if i % 2 else 0.6))
    alone, _ = observe(start(LOG), Logged(0, 0.5))
    assert decision.level == chosen.alpha
    assert state.log_sum > 0 == alone.log_sum
    assert decision.log_evidence == pytest.approx(math.log(state.log_sum * 0.2 * 0.05))


def test_it_needs_numpy_and_scipy_only():
    code = (
        "import sys, selfreg.guard; print(sorted({n.partition('.')[0] for n in sys.modules} & "
        "{'jax', 'torch', 'pandas', 'matplotlib', 'pyarrow', 'absl', 'rich', 'transformers'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert asdict(PANEL)["source"] == "panel"
