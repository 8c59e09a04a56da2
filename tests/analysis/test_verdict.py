from collections import Counter

import numpy as np
import pytest
from scipy.stats import t as student

from selfreg.analysis.load import load_run
from selfreg.analysis.nullmodel import Beta
from selfreg.analysis.selected import selected_drop
from selfreg.analysis.stats import Difference, panel_difference
from selfreg.analysis.verdict import Finding, judge, judge_run
from selfreg.analysis.words import change, describe, interval, p_value
from selfreg.run import rundir
from selfreg.run.records import Checkpoint, PanelScore


def drop(low: float, high: float) -> Difference:
    """Return a difference over 96 problems with this 95% t interval."""
    error = (high - low) / 2 / student.ppf(0.975, 95)
    return Difference((low + high) / 2, error, low, high, 96, 8)


@pytest.mark.parametrize(
    ("difference", "peak", "finding"),
    [
        (drop(0.01, 0.5), 0.6, Finding.COLLAPSED),
        (drop(0.02, 0.19), 0.6, Finding.COLLAPSED),  # just above the margin, and next below it
        (drop(0.02, 0.17), 0.6, Finding.DECLINED),
        (drop(0.01, 0.05), 0.6, Finding.DECLINED),  # beyond noise, however small
        (drop(0.01, 0.05), 0.06, Finding.NOTHING_TO_LOSE),  # the peak is below the margin
        (drop(-0.05, 0.09), 0.6, Finding.STABLE),
        (drop(-0.3, -0.2), 0.6, Finding.STABLE),
        (drop(-0.05, 0.105), 0.6, Finding.STABLE),  # one-sided, the bound is .0926
        (drop(-0.05, 0.13), 0.6, Finding.NOISE),
        (drop(-0.009, 0.11), 0.6, Finding.DECLINED),  # one-sided, it lies above .0007
        (drop(-0.01, 0.02), 0.05, Finding.NOTHING_TO_LOSE),  # no drop could reach the margin
        (None, 0.6, Finding.NO_DROP),
    ],
)
def test_judge(difference, peak, finding):
    assert judge(difference, peak) is finding


def test_margin_is_stated_and_obeyed():
    assert judge(drop(-0.05, 0.13), 0.6, margin=0.2) is Finding.STABLE
    assert judge(drop(-0.009, 0.13), 0.6, level=0.01) is Finding.NOISE


@pytest.mark.parametrize(
    ("difference", "gain", "finding"),
    [
        (None, drop(0.05, 0.3), Finding.IMPROVED),
        (None, drop(-0.05, 0.3), Finding.NO_DROP),
        (drop(-0.05, 0.09), drop(0.05, 0.3), Finding.IMPROVED),
        (drop(-0.05, 0.09), drop(-0.3, -0.05), Finding.STABLE),
        (drop(-0.05, 0.13), drop(0.05, 0.3), Finding.NOISE),  # a large drop is not ruled out
        (drop(0.02, 0.17), drop(0.05, 0.3), Finding.DECLINED),
    ],
)
def test_an_improvement_requires_that_a_large_drop_is_ruled_out(difference, gain, finding):
    assert judge(difference, 0.6, gain) is finding


RATES = Beta(0.3, 2.0)


def still_campaigns(rng, count, readings, problems, samples):
    """Simulate panels of policies that do not change: float [count, readings, problems]."""
    a, b = RATES.mean * RATES.concentration, (1 - RATES.mean) * RATES.concentration
    rates = rng.beta(a, b, (count, 1, problems))
    shape = (count, readings, problems)
    return rng.binomial(samples, np.broadcast_to(rates, shape)) / samples


def test_a_constant_policy_is_called_collapsed_at_the_rate_of_the_level():
    """5 panels of 96 x 4 select the peak, and a report panel of 96 x 8 judges it, as in a run."""
    rng = np.random.default_rng(23)
    panels = still_campaigns(rng, 15_000, 5, 96, 4)
    selected = panels.mean(axis=2).argmax(axis=1) < 4
    panels = panels[selected][:10_000]  # the others peak at their end, without a drop to test
    assert len(panels) == 10_000
    reports = still_campaigns(rng, 10_000, 2, 96, 8)
    ids = tuple(map(str, range(96)))
    found = Counter()
    for peak, end in reports:
        scores = PanelScore(ids, peak, 8), PanelScore(ids, end, 8)
        found[judge(panel_difference(*scores), scores[0].pass_at_1)] += 1
    called = found[Finding.COLLAPSED] + found[Finding.DECLINED]
    assert called / 10_000 == pytest.approx(0.05, abs=0.005)
    assert found[Finding.COLLAPSED] < 10  # a drop of .10 is 4.6 standard errors here

    # Tests on the panels themselves, with and without the correction for the selection.
    every = still_campaigns(rng, 10_000, 5, 96, 4)
    tested = selected_drop(every)
    assert np.mean(tested.p <= 0.05) == pytest.approx(0.05, abs=0.005)
    assert np.mean(tested.biased_p <= 0.05) > 0.12


def test_drops_of_a_chain_are_adjusted_together(write_run):
    levels = [[0.3, 0.5, 0.1], [0.1, 0.2, 0.3], [0.3, 0.35, 0.34]]
    verdict = judge_run(load_run(write_run("run", levels)))
    first, second, third = verdict.campaigns
    assert second.drop is None
    # Both fell in proportion, so they have the same t. Holm doubles the smaller of two p-values.
    assert first.drop.p_above() == pytest.approx(third.drop.p_above())
    doubled = pytest.approx(2 * first.drop.p_above())
    assert (verdict.holm[0], verdict.holm[2]) == (doubled, doubled)
    assert verdict.holm[1] is None


def test_the_chain_is_judged_from_its_best_peak(write_run):
    fallen = judge_run(load_run(write_run("fallen", [[0.3, 0.6, 0.5], [0.5, 0.4, 0.1]]))).chain
    assert fallen.best_campaign == 0
    assert fallen.drop.mean == pytest.approx(0.5)
    assert fallen.finding is Finding.COLLAPSED
    kept = judge_run(load_run(write_run("es", [[0.3, 0.6, 0.1], [0.6, 0.4, 0.3]], condition="ES")))
    assert kept.chain.drop is None  # regardless of the ends
    assert kept.chain.finding is Finding.IMPROVED
    risen = judge_run(load_run(write_run("risen", [[0.3, 0.4, 0.5], [0.5, 0.55, 0.6]])))
    assert risen.chain.drop is None
    assert risen.chain.finding is Finding.IMPROVED
    assert "The best peak is kept: improved beyond noise." in describe(risen)


def test_the_controls_own_panel_is_tested_if_it_was_kept(write_run, make_group):
    folder = write_run()
    assert judge_run(load_run(folder)).campaigns[0].panel is None
    rates = np.array([[2, 4, 3], [4, 8, 6], [0, 1, 2]]) / 8  # of 3 problems at steps 0, 2 and 5
    for step, row in zip((0, 2, 5), rates, strict=True):
        groups = [make_group(f"main/{i}", round(8 * r), 8, "x") for i, r in enumerate(row)]
        rundir.write_completions(rundir.completions_file(folder, 0, step, "panel"), groups)
    panel = judge_run(load_run(folder)).campaigns[0].panel
    assert (panel.readings, panel.problems) == (3, 3)
    assert panel.drop == pytest.approx((18 - 3) / 24)
    assert panel.p == pytest.approx(float(selected_drop(rates).p))


def test_a_collapse(write_run):
    verdict = judge_run(load_run(write_run()))
    (campaign,) = verdict.campaigns
    assert campaign.finding is Finding.COLLAPSED
    assert (campaign.peak_step, campaign.end_step) == (2, 5)
    assert campaign.rise.mean == pytest.approx(0.2)
    assert campaign.drop.mean == pytest.approx(0.5)
    # Rates 1.5 and 0.5 times the level: sd of the drop is 0.25 * sqrt(12 / 11).
    assert campaign.drop.standard_error == pytest.approx(0.25 * (12 / 11) ** 0.5 / 12**0.5)
    assert campaign.shape.collapsed
    assert campaign.noise.reading.steps == 5
    assert verdict.chain.kept_place == "end"
    assert verdict.chain.kept == verdict.chain.end
    assert verdict.chain.end_change.mean == pytest.approx(-0.3)
    assert verdict.chain.kept_at == verdict.chain.end_at == Checkpoint(0, 5)


def test_es_keeps_the_peak_and_a0_the_end(write_run):
    levels = [[0.3, 0.5, 0.1], [0.5, 0.3, 0.2]]
    chain = judge_run(load_run(write_run("es", levels, condition="ES"))).chain
    assert chain.kept.pass_at_1 == pytest.approx(0.5)
    assert chain.kept_at == Checkpoint(0, 1)  # the second campaign peaks where it started
    assert chain.kept_change.mean == pytest.approx(0.2)
    assert chain.end.pass_at_1 == pytest.approx(0.2)
    assert chain.best_campaign == 0


def test_one_policy_is_not_compared_with_itself(write_run):
    verdict = judge_run(load_run(write_run("up", [[0.3, 0.4, 0.5]])))
    (up,) = verdict.campaigns
    assert up.finding is Finding.IMPROVED
    assert up.drop is None
    assert "no drop, the end is the peak" in describe(verdict)
    assert "drop 0" not in describe(verdict)

    verdict = judge_run(load_run(write_run("down", [[0.5, 0.4, 0.2]], condition="ES")))
    assert verdict.campaigns[0].rise is None
    assert verdict.chain.kept_at is None
    assert verdict.chain.kept_change is None
    assert "Kept: the start." in describe(verdict)
    assert "training did not improve the policy beyond noise." in describe(verdict)


def test_the_text_of_a_collapse(write_run):
    first, second, last = describe(judge_run(load_run(write_run()))).splitlines()
    assert first == (
        "A0 seed 7: training made the policy better, then destroyed it. "
        "pass@1: 0.30 ± 0.05 -> 0.50 ± 0.08 at the best peak (campaign 1, step 2) -> 0.00 ± 0.00 "
        "at the end (1 campaign, 5 updates). Kept: the end (-0.30 [-0.40, -0.20] from the start)."
    )
    assert second.startswith(
        "Campaign 1: from 0.30 ± 0.05 to a peak of 0.50 ± 0.08 at step 2 (+0.20 [+0.13, +0.27]), "
        "ended at 0.00 ± 0.00: COLLAPSED beyond noise (drop 0.50 [0.33, 0.67], p < 0.001); "
        "pass_rate gap "
    )
    assert second.endswith("(n = 5 steps).")
    assert "n = 12 problems x 8 samples" in last


@pytest.mark.parametrize("campaigns", [1, 3, 4, 10])
def test_the_text_stays_short(write_run, campaigns):
    levels = [[0.3, 0.5, 0.1]] + [[0.1, 0.4, 0.1]] * (campaigns - 1)
    text = describe(judge_run(load_run(write_run("run", levels))))
    assert 2 <= len(text.splitlines()) <= 5
    if campaigns > 3:
        assert f"Of {campaigns} campaigns: {campaigns} collapsed. The largest drop:" in text
        assert "Campaign 1:" in text


def test_unfinished_runs_say_so(write_run):
    levels = [[0.3, 0.5, 0.1], [0.1, 0.1, 0.1]]
    verdict = judge_run(load_run(write_run("second", levels, finished=1)))
    assert len(verdict.campaigns) == 1
    assert "UNFINISHED, 1 of 2 campaigns" in describe(verdict)
    verdict = judge_run(load_run(write_run("first", levels, finished=0)))
    assert verdict.chain is None
    assert "no verdict yet" in describe(verdict)


def test_without_training_completions_there_is_no_null(write_run):
    verdict = judge_run(load_run(write_run(completions=False)))
    assert verdict.campaigns[0].noise is None
    assert "null" not in describe(verdict)


def test_pass_rate_is_read_through_its_rolling_mean(write_run):
    run = load_run(write_run("run", [[0.25, 0.75, 0.5, 0.0]], control_metric="pass_rate"))
    shape = judge_run(run).campaigns[0].shape
    # Means of (.25), (.25, .75), (.25, .75, .5); the last record has no samples.
    assert (shape.peak, shape.end, shape.end_step) == (0.5, 0.5, 2)


def test_numbers_in_words():
    assert interval(drop(-0.05, 0.09)) == "0.02 [-0.05, 0.09]"
    assert change(drop(0.05, 0.09)) == "+0.07 [+0.05, +0.09]"
    same = Difference(0.0, 0.0, 0.0, 0.0, 96, 8)
    assert interval(same) == "0.00 on every problem"  # instead of an interval of width 0
    assert [p_value(p) for p in (0.5, 0.04, 0.004, 0.0003)] == [
        "p = 0.50", "p = 0.04", "p = 0.004", "p < 0.001",
    ]  # fmt: skip


def test_the_null_uses_the_group_size_that_the_control_ordered(write_run):
    rollout = {"problems_per_step": 1, "group_size": 8}  # in the config; the campaigns drew 16
    folder = write_run(levels=[[0.5, 0.75, 0.5, 0.25]], completions=True, rollout=rollout)
    (row,) = rundir.read_lines(folder / rundir.CAMPAIGNS)
    row["plan"]["group_size"] = 16
    rundir.keep_lines(folder / rundir.CAMPAIGNS, [row])
    (campaign,) = judge_run(load_run(folder)).campaigns
    assert campaign.noise is not None


@pytest.mark.parametrize(
    ("levels", "headline"),
    [
        ([[0.3, 0.6, 0.1], [0.1, 0.2, 0.0]], "training made the policy better, then destroyed it."),
        ([[0.3, 0.8, 0.5], [0.5, 0.5, 0.5]], "training made the policy better, then worse."),
        ([[0.5, 0.4, 0.2], [0.2, 0.1, 0.1]], "training destroyed the policy."),
        ([[0.5, 0.5, 0.3], [0.3, 0.3, 0.3]], "training made the policy worse."),
        ([[0.3, 0.4, 0.5], [0.5, 0.55, 0.6]], "training made the policy better."),
        ([[0.3, 0.35, 0.3], [0.3, 0.3, 0.3]], "the kept policy is a little worse than the best"),
        ([[0.3, 0.3, 0.3], [0.3, 0.3, 0.3]], "the kept policy is about as good as the best peak."),
        ([[0.05, 0.06, 0.02], [0.02, 0.02, 0.02]], "even the best peak is too low to lose"),
    ],
)
def test_a_verdict_begins_with_what_training_did(write_run, levels, headline):
    text = describe(judge_run(load_run(write_run("run", levels))))
    assert text.startswith(f"A0 seed 7: {headline}")
