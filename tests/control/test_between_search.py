"""B2, B3, M1, M2 and who proposes: draws, the Pareto front, and what a language model may say."""

import importlib.util
import itertools
import json
from collections import Counter
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.control import proposers
from selfreg.control.between import bayesian_search
from selfreg.control.find import find_between
from selfreg.control.proposers import PROPOSERS, Situation, Tried, pareto_front, read_strategy
from selfreg.control.strategy import (
    FULL,
    SEARCH,
    Strategy,
    base_strategy,
    draw,
    halfway,
    neighbour,
    order,
    shift,
)
from selfreg.run.config import KEYS
from selfreg.run.records import Answer, Checkpoint
from tests.control.between_scripts import CURVES, base, plans, run, trace

SEARCHES = ("random_search", "llm_search", "morbo_proxy")
GRID = set(itertools.product((0.5e-6, 1e-6, 2e-6), (0.0, 0.01, 0.05)))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_starts_as_configured_and_rolls_the_end_forward(name):
    first, *rest = plans(name, CURVES)
    assert (first.start, first.lr, first.kl_coef) == (None, 1e-6, 0.0)
    ends = [Checkpoint(campaign, len(v) - 1) for campaign, v in enumerate(CURVES.values())]
    assert [plan.start for plan in rest] == ends
    assert {(plan.lr, plan.kl_coef) for plan in rest} <= GRID
    assert {(p.budget_steps, p.temperature, p.group_size) for p in rest} == {(20, None, None)}


def test_b2_draws_the_whole_grid_evenly_and_by_seed_and_campaign_alone():
    drawn = [
        [(p.lr, p.kl_coef) for p in plans("random_search", list(CURVES) * 2, base(seed=seed))[1:]]
        for seed in range(60)
    ]
    counts = Counter(itertools.chain(*drawn))
    assert counts.keys() == GRID
    # 600 draws of 9: 66.7 each with a standard deviation of 7.7; four of them either way.
    assert all(36 < count < 98 for count in counts.values())
    assert len({tuple(draws) for draws in drawn}) == 60
    other = [(p.lr, p.kl_coef) for p in plans("random_search", ["flat_noise"] * 10)[1:]]
    assert other == drawn[7]  # what happened is nothing to it


def test_the_pareto_front_by_hand():
    # (end, peak): the second is dominated by the third, the last two are equal and both on it.
    outcomes = [[0.1, 0.9], [0.2, 0.3], [0.3, 0.3], [0.5, 0.2], [0.5, 0.2]]
    assert pareto_front(np.array(outcomes)) == [0, 2, 3, 4]
    assert pareto_front(np.empty((0, 2))) == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_pareto_front_against_a_loop(rows):
    front = []
    for i, (a, b) in enumerate(rows):
        beaten = False
        for c, d in rows:
            if c >= a and d >= b and (c, d) != (a, b):
                beaten = True
        if not beaten:
            front.append(i)
    assert pareto_front(np.array(rows)) == front


def test_m1_draws_half_of_the_time_near_the_front():
    # The front is one corner of the grid; its neighbours are that corner's 2 x 2 block, a uniform
    # draw lies there 4 times in 9: 1/2 + 1/2 x 4/9 = 0.722 of 2,000, standard deviation 0.010.
    tried = (
        Tried(Strategy(0.5, 0.0), {"end": 0.5, "peak": 0.5}, 1.0),
        Tried(Strategy(2.0, 0.05), {"end": 0.1, "peak": 0.4}, 0.25),
    )
    situation = Situation(base(), 3, SEARCH, tried, "scores", wanted=2000)
    drawn = proposers.by_front(situation)
    near = sum(s.lr_factor <= 1 and s.kl_coef <= 0.01 for s in drawn)
    assert 0.68 < near / len(drawn) < 0.765
    assert proposers.by_front(situation) == drawn
    assert len(proposers.by_front(situation._replace(tried=(), wanted=3))) == 3


def test_rules_by_hand():
    def proposed(delta, ratio, strategy=Strategy(1.0, 0.01)):  # noqa: B008
        tried = (Tried(strategy, delta, ratio),)
        return proposers.by_rules(Situation(base(), 1, FULL, tried, "changes"))[0]

    good = {"main": 0.1, "cpp": 0.0}
    assert proposed(good, 0.9) == Strategy(1.0, 0.01)  # the same again
    assert proposed(good, 0.4) == Strategy(0.5, 0.05, 0.5)  # it collapsed: gentler
    assert proposed({"main": 0.1, "cpp": -0.06}, 0.9) == Strategy(0.5, 0.05, 0.5)
    assert proposed({"main": 0.1, "cpp": -0.05}, 0.9) == Strategy(1.0, 0.01)  # epsilon is 0.05
    assert proposed({"main": 0.02, "cpp": 0.3}, 0.9) == Strategy(2.0, 0.01, 1.0, 1.25)  # bolder
    gentlest = Strategy(0.5, 0.05, 0.5)
    assert proposed(good, 0.1, gentlest) == gentlest  # and no further
    nothing = Situation(replace(base(), kl_coefs=(0.02,)), 0, FULL, (), "changes")
    assert proposers.by_rules(nothing) == (Strategy(1.0, 0.02),)


def test_a_strategy_becomes_a_plan():
    start = Checkpoint(0, 3)
    changed = Strategy(2.0, 0.05, 0.5, 1.25, 0.5)
    plan = order(base(), 1, start, changed, "why", action="pilot", most_steps=8)
    assert (plan.start, plan.lr, plan.kl_coef, plan.budget_steps) == (start, 2e-6, 0.05, 8)
    assert (plan.temperature, plan.group_size, plan.action) == (0.875, 8, "pilot")
    assert order(base(), 1, start, changed, "why").budget_steps == 10
    plain = order(base(), 1, start, base_strategy(base()), "why")
    assert plain == base().plan(1, start, "why")
    for group, half in ((16, 8), (3, 2), (2, 2), (1, 1)):  # a group of one compares nothing
        small = replace(base(), group_size=group)
        assert order(small, 1, start, Strategy(group_factor=0.5), "why").group_size == half


def test_halfway_by_hand():
    middle = halfway(Strategy(0.5, 0.05, 0.5, 1.25, 0.5), Strategy(1.0, 0.01))
    assert astuple(middle) == pytest.approx((0.5**0.5, 0.03, 0.75, 1.125, 0.75))


@given(st.integers(0, 2**31))
def test_draws_and_neighbours_stay_in_the_space(seed):
    rng = np.random.default_rng(seed)
    one = draw(FULL, rng)
    other = neighbour(one, FULL, rng)
    for name, values in FULL.items():
        assert getattr(one, name) in values
        apart = values.index(getattr(other, name)) - values.index(getattr(one, name))
        assert abs(apart) <= 1
    assert shift(one, SEARCH, budget_factor=-1) == one  # no coordinate of that space
    assert shift(Strategy(1.4), SEARCH, lr_factor=1).lr_factor == 2.0  # 1.4 counts as 1


def test_the_config_knows_the_proposers():
    assert KEYS["control.proposer"].rule.words == "one of " + ", ".join(PROPOSERS)


# --- A language model -----------------------------------------------------------------------------

GOOD = '{"lr_factor": 0.5, "kl_coef": 0.05}'


def heard(text="", error=""):
    """The states of B3 after two campaigns, before and after an answer."""
    between = find_between("llm_search")
    state = run("llm_search", ["rise_collapse", "flat_noise"])[-1]
    answer = Answer(text, error, "question", "model", 100, 10, 2.5)
    return state, between.hear(state, answer)


def test_b3_asks_after_the_first_campaign_with_scalar_history():
    between = find_between("llm_search")
    states = run("llm_search", ["rise_collapse", "flat_noise"])
    assert between.ask(states[0]) is None
    question = between.ask(states[2])
    assert "1. lr x1, KL 0 -> end 0.100, peak 0.500\n" in question
    assert "kl_coef: 0.0, 0.01, 0.05" in question
    assert "cpp" not in question
    assert find_between("random_search").ask(states[2]) is None


def test_b3_orders_what_the_model_answers():
    _, state = heard(GOOD)
    assert (state.order.lr, state.order.kl_coef) == (0.5e-6, 0.05)
    assert state.order.start == Checkpoint(1, 15)
    assert state.order.reason == "the model chose lr x0.5, KL 0.05"
    memory = find_between("llm_search").remember(state)
    assert memory["asked"] == {
        "questions": 1, "failures": [], "prompt_tokens": 100, "completion_tokens": 10,
        "time_s": 2.5,
    }  # fmt: skip
    after = find_between("llm_search").observe(state, trace([0.1, 0.2], 2))
    assert after.entries[-1].lr == 0.5e-6
    # The next campaign has no answer yet: the draw of B2 stands.
    assert after.order.lr == plans("random_search", ["flat_noise"] * 3)[-1].lr


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("I would choose lr_factor 1.", "Expecting value"),
        (f"```json\n{GOOD}\n```", "Expecting value"),
        (GOOD + " good luck", "Extra data"),
        (GOOD + GOOD, "Extra data"),
        (f"[{GOOD}]", "list, not an object"),
        ("null", "NoneType, not an object"),
        ('{"lr_factor": 0.5}', "keys"),
        ('{"lr_factor": 0.5, "kl_coef": 0, "budget": 99}', "keys"),
        ('{"lr_factor": 0.5, "kl_coef": 0, "kl_coef": 0.05}', "a key twice"),
        (json.dumps({"k" * 10_000: 1}), "keys"),
        ('{"lr_factor": 3, "kl_coef": 0}', "lr_factor=3 is not one of"),
        ('{"lr_factor": true, "kl_coef": 0}', "lr_factor=True is not one of"),
        ('{"lr_factor": "1.0", "kl_coef": 0}', "lr_factor='1.0' is not one of"),
        ('{"lr_factor": NaN, "kl_coef": 0}', "lr_factor=nan is not one of"),
        ('{"lr_factor": [1], "kl_coef": 0}', r"lr_factor=\[1\] is not one of"),
        ('{"lr_factor": {"a": 1}, "kl_coef": 0}', "is not one of"),
        ('{"lr_factor": 1e999, "kl_coef": 0}', "lr_factor=inf is not one of"),
        ("[" * 100_000, "nested too deeply"),
        ('{"lr_factor": ' + "9" * 5000 + ', "kl_coef": 0}', "Exceeds the limit"),
    ],
)
def test_an_answer_of_no_use_is_recorded_and_the_draw_stands(text, why):
    with pytest.raises(ValueError, match=why):
        read_strategy(text, SEARCH)
    before, state = heard(text)
    assert (state.order.lr, state.order.kl_coef) == (before.order.lr, before.order.kl_coef)
    assert state.order.reason == before.order.reason + " (no usable answer)"
    assert state.asked.questions == len(state.asked.failures) == 1
    assert len(state.asked.failures[0]) <= 300


def test_no_answer_is_recorded_and_the_draw_stands():
    before, state = heard(error="timed out")
    reason = f"{before.order.reason} (no usable answer)"
    assert state.order == replace(before.order, reason=reason)
    assert state.asked.failures == ("timed out",)
    assert state.order.lr == plans("random_search", ["rise_collapse", "flat_noise"])[-1].lr


def test_whole_numbers_count_as_the_values_they_equal():
    assert read_strategy('{"kl_coef": 0, "lr_factor": 1}', SEARCH) == Strategy(1.0, 0.0)
    assert isinstance(read_strategy('{"kl_coef": 0, "lr_factor": 1}', SEARCH).lr_factor, float)


@given(st.text() | st.dictionaries(st.text(), st.floats()).map(json.dumps))
def test_any_text_gives_a_strategy_or_a_value_error(text):
    try:
        strategy = read_strategy(text, SEARCH)
    except ValueError:
        return
    assert strategy.lr_factor in SEARCH["lr_factor"]


@pytest.mark.parametrize("name", ["llm_search", "care"])
def test_a_control_that_asks_needs_an_endpoint(name):
    with pytest.raises(ValueError, match=r"config.control.llm_url='' must name"):
        find_between(name).start(base(llm_url="", proposer="llm"))


# --- M2 -------------------------------------------------------------------------------------------


def test_m2_without_botorch_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'selfreg\[botorch\]'"):
        bayesian_search.CONTROL.start(base())


def test_m2_draws_as_b2_until_there_is_something_to_fit():
    pytest.importorskip("botorch")
    script = ["rise_collapse", "half_lost"]
    assert plans("bayesian_search", script) == plans("random_search", script)


def test_m2_searches_where_the_past_was_good():
    pytest.importorskip("botorch")

    def tried(objective):
        return tuple(
            Tried(Strategy(lr, kl), dict.fromkeys(("end", "peak"), objective(lr, kl)), 1.0)
            for lr, kl in itertools.product((0.5, 1.0, 2.0), (0.0, 0.025, 0.05))
        )

    def proposed(objective, seed=7):
        situation = Situation(base(seed=seed), 9, SEARCH, tried(objective), "scores")
        return bayesian_search.propose(situation)[0]

    # Nine points of a plane: the best corner is (2, 0) or (0.5, 0.05).
    high = proposed(lambda lr, kl: 0.3 + 0.2 * np.log2(lr) - 4 * kl)
    low = proposed(lambda lr, kl: 0.3 - 0.2 * np.log2(lr) + 4 * kl)
    assert (high.lr_factor, high.kl_coef) == pytest.approx((2.0, 0.0), abs=0.2)
    assert (low.lr_factor, low.kl_coef) == pytest.approx((0.5, 0.05), abs=0.1)
    bayesian_search._best_point.cache_clear()
    assert proposed(lambda lr, kl: 0.3 - 0.2 * np.log2(lr) + 4 * kl) == low


def test_m2_compiles_no_kernel(monkeypatch):
    """BoTorch's own would wait for ever where a process was killed while it compiled."""
    cpp_extension = pytest.importorskip("torch.utils.cpp_extension")
    logei = pytest.importorskip("botorch.acquisition.multi_objective.logei")
    compiled = []
    monkeypatch.setattr(cpp_extension, "load", lambda **options: compiled.append(options))
    monkeypatch.setattr(logei, "_load_attempted", False)
    monkeypatch.setattr(logei, "_C", None)
    seen = ((1.0, 0.0, 0.1, 0.5), (2.0, 0.0, 0.3, 0.3), (0.5, 0.05, 0.2, 0.2))
    bayesian_search._best_point(seen, 4)
    assert compiled == []
    logei._load_attempted = False
    logei._try_load_fused_kernel()
    assert len(compiled) == 1  # what was watched is what BoTorch calls


def test_m2_leaves_torchs_own_random_numbers_alone():
    torch = pytest.importorskip("torch")
    pytest.importorskip("botorch")
    state = torch.random.get_rng_state()
    seen = ((1.0, 0.0, 0.1, 0.5), (2.0, 0.0, 0.3, 0.3), (0.5, 0.05, 0.2, 0.2))
    lr, kl = bayesian_search._best_point(seen, 3)
    assert 0 <= lr <= 1
    assert 0 <= kl <= 1
    assert torch.equal(torch.random.get_rng_state(), state)
