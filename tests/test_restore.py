"""Campaigns that return to their peak: what they restore, how often, and resuming in between."""

import textwrap

import jax
import numpy as np
import pytest

from selfreg.analysis.load import load_run
from selfreg.cli.replay import stored
from selfreg.control.replay import RESTORES, Decision
from selfreg.data.prompts import plain_text
from selfreg.data.sets import load_sets
from selfreg.loop import campaign, chain
from selfreg.loop import states as standing
from selfreg.policy.rollout import engines
from selfreg.policy.rollout.scripted_engine import ScriptedEngine
from selfreg.run import rundir
from selfreg.run.checkpoint import Checkpoints
from selfreg.run.config import default
from selfreg.run.records import Verdict
from selfreg.run.validate import resolve

# The fraction solved at each step: a peak at 2, a collapse, a higher peak at 6, another collapse.
SHARES = (0.25, 0.5, 0.75, 0.5, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class Scripted(ScriptedEngine):
    """Solves a fraction of the problems that depends on the step, whatever the weights."""

    def __init__(self, policy, *_, **__):
        sets = load_sets(default().problems)
        solutions = {plain_text(p): p.solution for p in (*sets.train, *sets.panel, *sets.report)}
        self.step = 0

        def answer(request, index):
            prompt = policy.tokenizer.decode(request.prompt_ids)
            solved = index < SHARES[self.step] * len(request.seeds)
            return solutions[prompt] if solved else "no program"

        super().__init__(policy.tokenizer, answer)

    def load_params(self, params, version=""):
        super().load_params(params, version)
        name = version.rpartition(".")[2]
        self.step = 0 if name == "initial" else int(name)


def small(**changes):
    config = default()
    config.update_from_flattened_dict(
        {
            "campaigns": 1, "campaign_budget_steps": 10, "problems.panel_count": 4,
            "problems.report_count": 4, "evaluation.every_steps": 1, "rollout.group_size": 4,
            "evaluation.panel_samples": 4, "evaluation.report_samples": 2,
            "rollout.max_new_tokens": 64, "learn.row_tokens": (64,), "optimizer.lr": 1e-4,
            "grading.validate": False, "checkpoint.every_steps": 3, "control.max_restores": 2,
            "rollout.max_logprob_difference": 99.0,  # a script's logprobs are 0
            **changes,
        }
    )  # fmt: skip
    return resolve(config)


STOPS = """
    from selfreg.control.protocol import Within
    from selfreg.run.records import Verdict

    def observe(state, record):
        return state, Verdict.STOP if record.step in {steps} else Verdict.CONTINUE

    CONTROL = Within(lambda base, plan: None, observe)
"""


@pytest.fixture(scope="module")
def stops_at(tmp_path_factory):
    """Write a control that stops after the updates of these steps, and return its file's path."""
    folder = tmp_path_factory.mktemp("controls")

    def write(*steps):
        file = folder / f"stops_at_{'_'.join(map(str, steps))}.py"
        file.write_text(textwrap.dedent(STOPS.format(steps=steps)))
        return str(file)

    return write


@pytest.fixture
def states(monkeypatch):
    """Record the weights and moments with which each step began. Later runs overwrite them."""
    kept = {}
    update = campaign.update

    def spy(stages, state, groups, plan, step, *others):
        kept[step] = jax.tree.map(np.array, state._asdict())
        return update(stages, state, groups, plan, step, *others)

    monkeypatch.setattr(campaign, "update", spy)
    return kept


def metric(folder, name):
    return [record.metrics.get(name) for record in rundir.read_records(folder)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.lora_rank": 4, "optimizer.state_dtype": "int8"},
    ],
    ids=["all weights", "LoRA, int8"],
)
def test_weights_and_moments_of_the_peak_come_back_to_the_bit(
    changes, stops_at, states, tmp_path, monkeypatch
):
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    chain.run_chain(small(within=stops_at(4, 7), **changes), tmp_path / "run")
    assert sorted(states) == list(range(10))  # the whole budget
    for peak, after in ((2, 5), (6, 8)):
        jax.tree.map(np.testing.assert_array_equal, states[after], states[peak])
    leaves = [jax.tree.leaves(states[step]["params"]) for step in (4, 5)]
    assert any((a != b).any() for a, b in zip(*leaves, strict=True))
    assert metric(tmp_path / "run", RESTORES) == [*[None] * 5, 1, 1, 1, 2, 2, 2]
    lrs = [1e-4] * 5 + [5e-5] * 3 + [2.5e-5] * 2
    assert metric(tmp_path / "run", "lr")[:-1] == pytest.approx(lrs)
    (summary,) = rundir.read_summaries(tmp_path / "run")
    assert (summary.peak_step, summary.end_step) == (6, 10)


def test_a_campaign_restores_as_often_as_it_may_and_then_stops(stops_at, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    chain.run_chain(small(within=stops_at(3, 4, 5, 6, 7, 8)), tmp_path / "run")
    (summary,) = rundir.read_summaries(tmp_path / "run")
    assert summary.end_step == 6  # restored after 3 and 4, stopped after 5
    assert metric(tmp_path / "run", RESTORES) == [None] * 4 + [1, 2, 2]
    # Step 5 continues from the peak for the second time, but with its own problems.
    chosen = [
        rundir.completions_file(tmp_path / "run", 0, step, "train").read_bytes() for step in (4, 5)
    ]
    assert chosen[0] != chosen[1]


def test_a_restore_can_switch_the_kl_penalty_on(stops_at, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    config = small(
        within=stops_at(4), campaign_budget_steps=7,
        **{"control.restore_kl_coef": 0.05, "control.restore_lr_factor": 1.0},
    )  # fmt: skip
    chain.run_chain(config, tmp_path / "run")
    measured = [value is not None for value in metric(tmp_path / "run", "k3_kl")]
    assert measured == [False] * 5 + [True] * 2 + [False]  # the last record has no update
    assert metric(tmp_path / "run", "lr")[:-1] == pytest.approx([1e-4] * 7)


def test_the_policy_that_it_goes_back_to_is_measured_at_once(stops_at, tmp_path, monkeypatch):
    """This holds for any panel interval. Otherwise a restarted control would see the next fall."""
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    config = small(
        within=stops_at(4), campaign_budget_steps=7, **{"evaluation.every_steps": 4}
    )  # fmt: skip
    chain.run_chain(config, tmp_path / "run")
    records = rundir.read_records(tmp_path / "run")
    assert [r.step for r in records if "panel_pass_at_1" in r.metrics] == [0, 4, 5, 7]
    assert [r.step for r in records if r.rates] == [0, 4, 5, 7]


def without_clocks(folder):
    return [
        (r.campaign, r.step, {
            name: value for name, value in r.metrics.items()
            if not name.startswith(("time/", "compiles", "grader/program_"))
        })
        for r in rundir.read_records(folder)
    ]  # fmt: skip


class PowerCut(Exception):
    """Ends the run."""


def cut(monkeypatch, module, name, nth):
    """Make the nth call of a function end the run."""
    function, calls = getattr(module, name), 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == nth:
            raise PowerCut
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapped)


@pytest.fixture(scope="module")
def whole(stops_at, tmp_path_factory):
    """Make a run that restores twice and is never interrupted. Return its config and folder."""
    folder = tmp_path_factory.mktemp("whole")
    config = small(within=stops_at(4, 7), **{"control.restore_kl_coef": 0.05})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engines, "JaxEngine", Scripted)
        chain.run_chain(config, folder)
    return config, folder


@pytest.mark.parametrize(
    ("name", "nth"),
    [
        ("check", 5),  # step 4 is recorded, but its restore has not begun
        ("_read", 1),  # during the restore
        ("update", 6),  # in step 5, the first after the restore
        ("update", 8),  # in step 7; the checkpoint at 6 was made after the restore
        ("check", 9),  # step 8 is recorded, after the second restore
    ],
)
def test_cut_off_and_resumed_it_is_the_run_that_never_was(name, nth, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    config, expected = whole
    opened = []
    begin = Checkpoints.__init__
    monkeypatch.setattr(
        Checkpoints, "__init__", lambda self, *a: (opened.append(self), begin(self, *a))[1]
    )
    with monkeypatch.context() as patched:
        homes = {"check": campaign.interrupt, "_read": standing}
        cut(patched, homes.get(name, campaign), name, nth)
        with pytest.raises(PowerCut):
            chain.run_chain(config, tmp_path / "cut")
    opened[0].close()  # stop its thread, which would be gone in a new process
    chain.run_chain(config, tmp_path / "cut")
    assert without_clocks(tmp_path / "cut") == without_clocks(expected)
    lines = [rundir.read_lines(f / rundir.CAMPAIGNS) for f in (tmp_path / "cut", expected)]
    assert lines[0] == lines[1]


def test_what_was_drawn_ahead_from_the_collapsed_policy_is_dropped(stops_at, tmp_path):
    config = small(
        within=stops_at(2), campaign_budget_steps=5,
        **{"rollout.overlap": True, "optimizer.lr": 1e-3, "evaluation.panel_samples": 2},
    )  # fmt: skip
    chain.run_chain(config, tmp_path / "run")
    assert metric(tmp_path / "run", "rollout/staleness_steps") == [0, 1, 1, 0, 1, None]
    differences = metric(tmp_path / "run", "rollout/logprob_abs_diff")
    assert max(differences[0], differences[3]) < 1e-4 < min(differences[1], differences[4])


@pytest.mark.parametrize("between", ["naive", "early_stop"])
@pytest.mark.parametrize("within", ["early_stop", "predictor", "guard"])
def test_every_control_within_restores_under_every_control_between(
    within, between, tmp_path, monkeypatch
):
    """The run also matches a replay of its controls."""
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    config = small(
        within=within, between=between, campaigns=2, campaign_budget_steps=12,
        **{"control.max_restores": 1, "control.early_stop_patience": 2},
        **({"problems.panel_count": 24} if within == "guard" else {}),  # fewer could never alarm
    )  # fmt: skip
    chain.run_chain(config, tmp_path)
    run = load_run(tmp_path)
    decided, after = stored.decisions(run, stored.with_controls(run.config, None, None, None))
    assert [each.plan for each in decided] == [summary.plan for summary in run.summaries]
    assert after.start == run.summaries[-1].kept
    # The peak at 2 is followed by falls. The rule needs two falls, the predictor its 8 first steps,
    # and the guard one fall, because all problems fall alike.
    first = {"early_stop": 4, "predictor": 8, "guard": 3}[within]
    assert decided[0].decisions[0] == Decision(first, Verdict.RESTORE_PEAK)
    for each, trace in zip(decided, run.traces, strict=True):
        restores = [record.metrics.get(RESTORES, 0) for record in trace.records]
        told = [d.step for d in each.decisions if d.verdict is Verdict.RESTORE_PEAK]
        assert [
            step for step in range(1, len(restores)) if restores[step] > restores[step - 1]
        ] == [step + 1 for step in told]
        stops = [d.step for d in each.decisions if d.verdict is Verdict.STOP]
        assert trace.end_step == (stops[0] + 1 if stops else each.plan.budget_steps)
