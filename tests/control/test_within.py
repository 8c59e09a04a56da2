"""Controls within a campaign, on traces made by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.control import calibrate, supervise
from selfreg.control.find import find_within
from selfreg.control.protocol import Base
from selfreg.control.within import early_stop, guard, predictor
from selfreg.run.records import Plan, StepRecord, Verdict

PLAN = Plan(None, 40, 1e-3, 0.0)
UNITS = {"entropy": 2.0, "clip_ratio": 1.0, "grad_norm": 4.0, "panel_pass_at_1": 2.0}
BASE = Base(
    budget_steps=40,
    lr=1e-3,
    metric="panel_pass_at_1",
    options={"early_stop_drop": 0.02, "early_stop_patience": 3, "false_alarm_rate": 0.05},
    model="tiny",
    # 19 maxima: the 19th is the threshold at a rate of 0.05.
    calibration={
        "model": "tiny",
        "budgets": {"40": {"units": UNITS, "maxima": [0.1] * 18 + [1.0]}},
    },
)


def records(*metrics):
    return [StepRecord(0, step, each) for step, each in enumerate(metrics)]


def panel(*values, error=0.03):
    """One panel score a step; None where there is none."""
    return records(
        *({} if v is None else {"panel_pass_at_1": v, "panel_pass_at_1_se": error} for v in values)
    )


def stop_step(control, steps, base=BASE):
    """The step after which a control stops; None where it does not."""
    state = control.start(base, PLAN)
    for record in steps:
        state, verdict = control.observe(state, record)
        assert verdict in (Verdict.CONTINUE, Verdict.STOP)
        if verdict is Verdict.STOP:
            return record.step
    return None


# --- Online early stop ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        ([0.3, 0.5, 0.4, 0.3, 0.2, 0.1], 4),  # rise and collapse: declines at 2, 3, 4
        ([0.5, 0.49, 0.5, 0.48, 0.49, 0.5, 0.48, 0.48, 0.48], None),  # flat noise
        ([0.02 * step for step in range(20)], None),  # steady rise
        ([0.5] * 15 + [0.0, 0.0, 0.0], 17),  # late cliff
        ([0.5, 0.4, 0.4, 0.49, 0.4, 0.4, 0.4], 6),  # near the peak again: the row begins anew
        ([0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5], 6),  # a new peak does too
        ([0.5, 0.4, None, None, 0.4, None, 0.4], 6),  # unmeasured steps count for nothing
        ([0.50, 0.485, 0.475, 0.465, 0.455], 4),  # a slide: from the peak, not step by step
        ([0.1, 0.5, 0.46, 0.47, 0.475], 4),  # rising again, and still below the peak
        ([None, None], None),
    ],
)  # fmt: skip
def test_three_declines_in_a_row_from_the_peak_stop(values, stops):
    assert stop_step(early_stop.CONTROL, panel(*values)) == stops


def test_a_drop_of_exactly_the_limit_is_no_decline_however_it_rounds():
    assert 0.5 - 0.48 > 0.02  # in floats
    assert stop_step(early_stop.CONTROL, panel(0.5, 0.48, 0.48, 0.48)) is None


def test_the_rules_numbers_are_options():
    patient = replace(BASE, options={"early_stop_drop": 0.2, "early_stop_patience": 1})
    assert stop_step(early_stop.CONTROL, panel(0.5, 0.4, 0.31, 0.29), patient) == 3


# --- The predictor --------------------------------------------------------------------------------

WOBBLE = [0.020, 0.024, 0.022, 0.026, 0.018, 0.023, 0.021, 0.025]


def test_z_by_hand():
    """first: median 3.5, deviations 3.5 2.5 1.5 .5 .5 1.5 2.5 3.5, their median 2."""
    first, last = tuple(float(i) for i in range(8)), (9.0, 10.0, 11.0, 12.0)
    state = predictor.State({"clip_ratio": 1.0, "distinct_completions": 1.0}, 99.0)
    for value in (*first, *last):
        metrics = {"clip_ratio": value, "distinct_completions": -value}
        state = predictor.read(state, StepRecord(0, 0, metrics))
    expected = (10.5 - 3.5) / (1.4826 * 2 * math.sqrt(1 / 4 + math.pi / 16))
    assert state.z["clip_ratio"] == pytest.approx(expected)
    assert state.z["distinct_completions"] == pytest.approx(-expected)  # a fall is no bad sign


def test_where_the_first_steps_are_alike_the_resolution_is_the_spread():
    state = predictor.State({"clip_ratio": 1.0}, 99.0)
    for value in [0.0] * 8 + [0.25] * 4:
        state = predictor.read(state, StepRecord(0, 0, {"clip_ratio": value}))
    assert state.z["clip_ratio"] == pytest.approx(0.25 / (0.1 * math.sqrt(1 / 4 + math.pi / 16)))


def test_the_panel_is_judged_by_its_standard_errors_against_the_running_peak():
    state = predictor.State({"panel_pass_at_1": 2.0}, 99.0)
    for record in panel(0.5, None, 0.6, *[None] * 5, 0.45, error=0.03):
        state = predictor.read(state, record)
    assert state.z == {"panel_pass_at_1": pytest.approx(0.15 / (0.03 * math.sqrt(2)))}
    score = calibrate.score(state.z, {**state.units, "entropy": 1.0})
    assert score == pytest.approx(0.15 / (0.03 * math.sqrt(2)) / 2)
    assert predictor.leading(state) == "panel_pass_at_1"


def test_it_alarms_on_rise_and_collapse_and_says_by_what():
    values = [0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.65, 0.6, 0.55, 0.5]
    # z = drop / 0.0424, alarm above 2: a drop of more than 0.085.
    assert stop_step(predictor.CONTROL, panel(*values)) == 10
    assert predictor.first_alarm(BASE, 40, panel(*values)) == (10, "panel_pass_at_1")


@pytest.mark.parametrize(
    "values",
    [
        [0.5, 0.53, 0.48, 0.52, 0.47] * 8,  # flat noise
        [0.02 * step for step in range(40)],  # steady rise
    ],
)
def test_it_does_not_alarm_where_the_panel_stays_near_its_peak(values):
    assert stop_step(predictor.CONTROL, panel(*values)) is None


def test_it_alarms_at_a_late_cliff_of_entropy_without_any_panel():
    flat, cliff = [{"entropy": v} for v in WOBBLE * 3], [{"entropy": 3.0}] * 8
    # 25 times the spread in logarithms: one step of the window of four is enough.
    assert stop_step(predictor.CONTROL, records(*flat)) is None
    assert stop_step(predictor.CONTROL, records(*flat, *cliff)) == 24
    assert predictor.first_alarm(BASE, 40, records(*flat, *cliff)) == (24, "entropy")


def test_metrics_that_the_calibration_does_not_know_are_not_read():
    steps = records(*[{"approx_kl": 0.0}] * 8, *[{"approx_kl": 50.0}] * 8)
    assert stop_step(predictor.CONTROL, steps) is None
    fit = {"units": {"approx_kl": 1.0}, "maxima": [1.0] * 19}
    known = {"model": "tiny", "budgets": {"40": fit}}
    assert stop_step(predictor.CONTROL, steps, replace(BASE, calibration=known)) == 11


def test_a_metric_that_begins_late_has_a_baseline_of_its_own():
    steps = records(*[{}] * 10, *[{"entropy": v} for v in WOBBLE], *[{"entropy": 3.0}] * 4)
    assert stop_step(predictor.CONTROL, steps) == 21


NUMBERS = st.floats(0.001, 1.0)
METRICS = st.fixed_dictionaries({}, optional=dict.fromkeys(UNITS, NUMBERS)).map(
    lambda m: {**m, "panel_pass_at_1_se": 0.01}
)


@given(st.lists(METRICS, max_size=predictor.BASELINE_STEPS))
def test_it_never_alarms_before_its_baseline_is_complete(metrics):
    assert stop_step(predictor.CONTROL, records(*metrics)) is None


def z_of(metric, values):
    state = predictor.State({metric: 1.0}, math.inf)
    for value in values:
        state = predictor.read(state, StepRecord(0, 0, {metric: value}))
    return state.z[metric]


SERIES = st.lists(st.integers(1, 1000), min_size=12, max_size=20).filter(
    lambda values: len(set(values[:8])) >= 6  # their spread is above the resolution
)


@given(SERIES, st.integers(-50, 50))
def test_a_constant_added_to_an_indicator_changes_nothing(values, shift):
    moved = [value + shift for value in values]
    assert z_of("clip_ratio", moved) == pytest.approx(z_of("clip_ratio", values), abs=1e-9)


@given(SERIES, st.floats(1.0, 100.0))
def test_a_unit_of_measurement_changes_nothing(values, scale):
    for metric in ("clip_ratio", "grad_norm"):  # read as it is, and by its logarithm
        scaled = [value * scale for value in values]
        assert z_of(metric, scaled) == pytest.approx(z_of(metric, values), abs=1e-6)


@given(SERIES, st.floats(0.001, 0.999))
def test_a_logarithm_has_no_unit_to_lose(values, scale):
    scaled = [value * scale for value in values]
    assert z_of("entropy", scaled) == pytest.approx(z_of("entropy", values), abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=9, max_size=20), st.floats(-0.5, 0.5))
def test_the_panel_counts_by_differences(values, shift):
    moved = [value + shift for value in values]
    z = [list(predictor.judge(panel(*each)))[-1]["panel_pass_at_1"] for each in (values, moved)]
    assert z[0] == pytest.approx(z[1], abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": "smollm2"},
            "of model.path='tiny', this run's is 'smollm2'.*selfreg.calibrate",
        ),
        ({"calibration": {}}, "predictor_calibration is missing.*selfreg.calibrate"),
        ({"options": {"false_alarm_rate": 0.01}}, "0.01 needs at least 99.*there are 19"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused_with_the_way_to_one(changes, words):
    with pytest.raises(ValueError, match=words):
        predictor.start(replace(BASE, **changes), PLAN)


def test_a_budget_longer_than_the_calibration_is_refused():
    with pytest.raises(ValueError, match=r"up to 40 steps, this one has 41.*--budgets=41"):
        predictor.start(BASE, replace(PLAN, budget_steps=41))


@pytest.mark.parametrize("name", ["early_stop", "guard", "predictor"])
def test_they_are_found_by_name(name):
    base = replace(BASE, options=BASE.options | GUARDED.options)
    assert find_within(name).start(base, PLAN) is not None


# --- The guard ------------------------------------------------------------------------------------

GUARDED = replace(BASE, options={"guard_alpha": 0.05, "guard_margin": 0.02, "max_restores": 0})


def looks(*levels, problems=64, every=1):
    """Records whose panel has rates around a level each, and steps without a panel between."""
    rng = np.random.default_rng(0)
    made = []
    for look, level in enumerate(levels):
        rates = tuple((rng.binomial(4, level, problems) / 4).tolist())
        metrics = {"panel_pass_at_1": float(np.mean(rates))}
        made.append(StepRecord(0, look * every, metrics, rates))
        made += [StepRecord(0, look * every + i, {}) for i in range(1, every)]
    return made


def test_the_guard_stops_at_a_collapse_and_not_at_a_rise():
    assert stop_step(guard.CONTROL, looks(*[0.4] * 5, *[0.7] * 10, *[0.3] * 5), GUARDED) == 15
    assert stop_step(guard.CONTROL, looks(*[0.3] * 10, *[0.7] * 10), GUARDED) is None


def test_the_guard_plans_for_as_many_looks_as_the_panel_is_measured():
    sparse = replace(GUARDED, panel_every_steps=4)
    assert guard.start(sparse, PLAN).memory.settings.planned == 10
    assert guard.start(GUARDED, PLAN).memory.settings.planned == 40
    steps = looks(*[0.7] * 6, *[0.3] * 4, every=4)
    assert stop_step(guard.CONTROL, steps, sparse) == 24


def test_each_episode_of_the_guard_has_its_share_of_alpha():
    restoring = replace(GUARDED, options=GUARDED.options | {"max_restores": 2})
    assert guard.start(restoring, PLAN).memory.settings.alpha == pytest.approx(0.05 / 3)


def test_the_guard_restores_the_peak_halves_the_rate_and_watches_on():
    options = {"restore_lr_factor": 0.5, "restore_kl_coef": 0.0, "max_restores": 1}
    base = replace(GUARDED, options=GUARDED.options | options)
    supervision = supervise.begin(guard.CONTROL, base, PLAN)
    said = []
    for record in looks(*[0.7] * 8, *[0.2] * 2, *[0.7] * 8, *[0.2] * 4):
        supervision = supervise.observe(supervision, record)
        said.append(supervision.verdict)
        if supervision.verdict is Verdict.STOP:
            break
        if supervision.verdict is Verdict.RESTORE_PEAK:
            assert supervise.rates(supervision).lr == PLAN.lr / 2
            assert supervision.state.decision is None
    assert said.index(Verdict.RESTORE_PEAK) == 8
    # The second episode begins with the look of step 9, which is low, and falls again at 18.
    assert (len(said) - 1, said[-1]) == (18, Verdict.STOP)


def test_a_panel_without_rates_by_problem_is_refused_by_the_guard():
    with pytest.raises(ValueError, match="step 0 has panel_pass_at_1 without its rates by problem"):
        stop_step(guard.CONTROL, panel(0.5), GUARDED)
