"""Groups without signal are replaced by groups of other problems: cases by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from selfreg.loop.draw import draw
from selfreg.loop.sample import Stopwatch
from selfreg.run import records
from selfreg.run.records import FinishReason, Grade, Group, Outcome, Plan, Problem, Rollout

PLAN = Plan(None, 5, 1e-3, 0.0)


def group_of(problem, passed, size):
    rollout = Rollout(np.zeros(1), np.zeros(1), np.zeros(1), "", FinishReason.STOP)
    grades = [Outcome.PASSED] * passed + [Outcome.FAILED] * (size - passed)
    return Group(problem, (rollout,) * size, ("",) * size, tuple(map(Grade, grades)))


def stages_of(passes, *, redraws, problems_per_step=3):
    """Make stages whose problem i passes passes[i] of 4 times, and a list of sampler calls."""
    train = [Problem(str(i), "", records.Tests(code="pass")) for i in range(len(passes))]
    calls = []

    def groups(problems, seeds, stopwatch, temperature, set_aside):
        assert set_aside == frozenset()
        calls.append(([p.id for p in problems], [tuple(s) for s in seeds]))
        return [
            group_of(p, passes[int(p.id)], len(s)) for p, s in zip(problems, seeds, strict=True)
        ]

    rollout = SimpleNamespace(redraws=redraws, problems_per_step=problems_per_step, group_size=4)
    return SimpleNamespace(
        config=SimpleNamespace(seed=7, rollout=rollout),
        sets=SimpleNamespace(of_campaign=lambda campaign: train),
        sampler=SimpleNamespace(groups=groups),
        log=SimpleNamespace(set_aside=lambda campaign, step, stream: frozenset()),
    ), calls


def drawn(stages, step=0):
    return draw(stages, PLAN, 0, step, Stopwatch())


def test_without_redraws_what_is_drawn_is_learned():
    stages, calls = stages_of([0] * 9, redraws=0)
    samples = drawn(stages)
    assert len(calls) == 1
    assert samples.learned == samples.first
    assert dict(samples.cost) == {
        "rollout/drawn_completions": 12, "rollout/redrawn_groups": 0,
        "rollout/groups_with_signal": 0,
    }  # fmt: skip


def test_what_has_signal_stays_and_what_has_none_gives_way():
    passes = [2, 0, 4] * 5
    stages, calls = stages_of(passes, redraws=20)
    samples = drawn(stages)
    ids = [name for names, _ in calls for name in names]
    assert len(set(ids)) == len(ids)  # no problem is drawn twice
    for before, after in zip(samples.first, samples.learned, strict=True):
        assert after.has_signal
        assert after is before or not before.has_signal
    assert len(samples.learned) == 3
    # Every round draws as many groups as still lack signal.
    missing, learned = [], list(samples.first)
    redrawn = iter(samples.redrawn)
    for names, _ in calls[1:]:
        places = [i for i, group in enumerate(learned) if not group.has_signal]
        missing.append(len(places) == len(names))
        for place in places:
            learned[place] = next(redrawn)
    assert all(missing)
    assert [id(g) for g in learned] == [id(g) for g in samples.learned]
    assert samples.cost["rollout/drawn_completions"] == 4 * len(ids)
    assert samples.cost["rollout/redrawn_groups"] == len(ids) - 3
    assert samples.cost["rollout/groups_with_signal"] == 3


def test_the_limit_holds_and_what_is_left_stays():
    stages, calls = stages_of([0] * 20, redraws=2)
    samples = drawn(stages)
    assert len(calls) == 3
    assert not any(group.has_signal for group in samples.learned)
    assert [g.problem.id for g in samples.learned] == calls[-1][0]


def test_it_ends_where_there_are_no_other_problems():
    stages, calls = stages_of([0] * 5, redraws=9)
    samples = drawn(stages)
    assert [len(names) for names, _ in calls] == [3, 2]
    assert len(samples.learned) == 3


@pytest.mark.parametrize("step", [0, 3])
def test_a_step_draws_the_same_again_and_first_what_it_draws_without_redraws(step):
    passes = [0, 1, 4, 2, 0, 0, 4, 3, 1]
    one, two, plain = (stages_of(passes, redraws=n) for n in (4, 4, 0))
    for stages, _ in (one, two, plain):
        drawn(stages, step)
    assert one[1] == two[1]
    assert plain[1] == one[1][:1]
