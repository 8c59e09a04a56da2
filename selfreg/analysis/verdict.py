"""Did it collapse? The verdict on each campaign, and on the chain, with what it rests on.

It rests on the report panel: its problems did not select the peak, so that the peak's score is not
the maximum of a noise. Start, peak and end answer the same problems with the same sampling seeds,
and their differences are paired by problem. Each test is one-sided at 5%: of campaigns whose policy
stands still, and whose drop is tested, 5% are called collapsed or declined. The control's own
panel, with the selection of its peak accounted for, and the per-step pass_rate with its stationary
null stand beside it, and decide nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfreg.analysis import nullmodel
from selfreg.analysis.finding import LEVEL, MARGIN, Finding
from selfreg.analysis.load import (
    Run,
    checkpoint_of_origin,
    group_size,
    panel_rates,
    passed_counts,
)
from selfreg.analysis.nullmodel import NullComparison, Reading
from selfreg.analysis.selected import selected_drop
from selfreg.analysis.stats import Difference, holm, panel_difference
from selfreg.analysis.trajectory import WINDOW, Trajectory, of_trace
from selfreg.run.records import Checkpoint, PanelScore, peak_index
from selfreg.run.rundir import CampaignSummary, place_of


@dataclass(frozen=True, slots=True)
class Score:
    """A policy's pass@1 on the report panel.

    Attributes:
      pass_at_1: Mean over problems.
      standard_error: Clustered by problem.
      problems: N.
      samples: Completions a problem.
    """

    pass_at_1: float
    standard_error: float
    problems: int
    samples: int


@dataclass(frozen=True, slots=True)
class PanelDrop:
    """The drop on the control's own panel, whose readings selected the peak: see `selected_drop`.

    Attributes:
      drop: Largest - last reading, biased upwards.
      p: With the selection accounted for.
      readings: K.
      problems: N.
    """

    drop: float
    p: float
    readings: int
    problems: int


@dataclass(frozen=True, slots=True)
class CampaignVerdict:
    """One finished campaign.

    Attributes:
      campaign: From 0.
      peak_step: Where the control's metric peaked; the report panel had no part in that.
      end_step: The last step, and the number of updates made.
      start: Report panel, at step 0.
      peak: At `peak_step`.
      end: At `end_step`.
      rise: peak - start; None when the peak is the start, and the rise 0 by construction.
      drop: peak - end; None when the end is the peak, and the drop 0 by construction.
      gain: end - start; None when no update was made.
      finding: The verdict; see `judge`.
      panel: The drop on the control's panel; None when its completions were not kept.
      shape: The control's metric as a trajectory; pass_rate through its rolling mean.
      noise: The per-step pass_rate against its stationary null; None when the training completions
        were not kept.
      permuted: The same against its own steps in random order; None when no sample was drawn.
    """

    campaign: int
    peak_step: int
    end_step: int
    start: Score
    peak: Score
    end: Score
    rise: Difference | None
    drop: Difference | None
    gain: Difference | None
    finding: Finding
    panel: PanelDrop | None
    shape: Trajectory
    noise: NullComparison | None
    permuted: NullComparison | None


@dataclass(frozen=True, slots=True)
class ChainVerdict:
    """From the initial policy to what the finished campaigns left.

    Attributes:
      start: The initial policy.
      end: The end of the last finished campaign.
      kept: What the control hands on.
      kept_place: What that was in its campaign: "end" or "peak", or the chain's "start".
      kept_at: The checkpoint that made the kept policy; None when it is the initial one.
      end_at: The checkpoint that made the end.
      best: Report score of the peak of the campaign whose control metric peaked highest.
      best_campaign: That campaign.
      end_change: end - start; None when they are one policy.
      kept_change: kept - start; None when they are one policy.
      drop: best - kept; None when they are one policy.
      finding: The verdict on that drop and `kept_change`; see `judge`.
    """

    start: Score
    end: Score
    kept: Score
    kept_place: str
    kept_at: Checkpoint | None
    end_at: Checkpoint | None
    best: Score
    best_campaign: int
    end_change: Difference | None
    kept_change: Difference | None
    drop: Difference | None
    finding: Finding


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """Everything that is concluded from one run.

    Attributes:
      condition: How campaigns were controlled.
      seed: Of the chain.
      control_metric: What the control read.
      finished: Whether all campaigns have ended.
      planned_campaigns: How many the config asks for.
      updates: Made so far.
      margin: What `judge` used.
      campaigns: The finished ones.
      holm: Of each, p of its drop adjusted for the number of drops that were tested; None where
        none was.
      chain: None before a campaign has ended.
    """

    condition: str
    seed: int
    control_metric: str
    finished: bool
    planned_campaigns: int
    updates: int
    margin: float
    campaigns: tuple[CampaignVerdict, ...]
    holm: tuple[float | None, ...]
    chain: ChainVerdict | None


def judge(
    drop: Difference | None,
    peak: float,
    gain: Difference | None = None,
    margin: float = MARGIN,
    level: float = LEVEL,
) -> Finding:
    """The verdict on a drop from peak to end, and on the gain from start to end.

    The first of these that holds:

    - `nothing to lose`: there is a drop to test, but the peak itself is below the margin, so that
      none could exceed it.
    - `collapsed`: the drop is above 0 beyond noise, and no smaller than the margin.
    - `declined`: the drop is above 0 beyond noise, and smaller than the margin.
    - `not distinguishable from noise`: neither is that so, nor is the drop below the margin beyond
      noise: the panel is too small to say.
    - `improved`: the gain is above 0 beyond noise.
    - `the end is the peak`: one checkpoint is both, and nothing was measured twice.
    - `stable`: the drop is below the margin beyond noise, which is the equivalence bound.

    "Beyond noise" is a one-sided t test over problems at `level`.

    Args:
      drop: peak - end on the report panel; None when they are one policy.
      peak: pass@1 at the peak.
      gain: end - start; None when they are one policy.
      margin: A smaller drop is no collapse.
      level: Of each test, and so the chance that a drop of 0 is called collapsed or declined.
    """
    if drop is not None:
        if peak < margin:
            return Finding.NOTHING_TO_LOSE
        if drop.p_above(0.0) <= level:
            return Finding.COLLAPSED if drop.mean >= margin else Finding.DECLINED
        if drop.p_below(margin) > level:
            return Finding.NOISE
    if gain is not None and gain.p_above(0.0) <= level:
        return Finding.IMPROVED
    return Finding.NO_DROP if drop is None else Finding.STABLE


def judge_run(run: Run, margin: float = MARGIN) -> RunVerdict:
    """Judge a run, finished or not.

    Raises:
      ValueError: Two scores are of different panels.
    """
    campaigns = tuple(_judge_campaign(run, summary, margin) for summary in run.summaries)
    return RunVerdict(
        run.condition,
        run.seed,
        str(run.config["control_metric"]),
        run.finished,
        int(run.config["campaigns"]),
        run.updates,
        margin,
        campaigns,
        _adjusted([campaign.drop for campaign in campaigns]),
        _judge_chain(run, margin) if run.summaries else None,
    )


def pass_rate_noise(run: Run, campaign: int) -> NullComparison | None:
    """A campaign's pass_rate against the null of its own groups; None when those were not kept."""
    passed = passed_counts(run, campaign)
    if not len(passed):
        return None
    values = _pass_rate(run, campaign)
    return nullmodel.compare(values, passed, _reading(run, campaign, values))


def kept_score(run: Run) -> tuple[str, PanelScore]:
    """What a run with a finished campaign hands on: its place (start, peak or end) and score."""
    kept = run.summaries[-1].kept
    if kept is None:
        return "start", run.summaries[0].scores["start"]
    summary = run.summaries[kept.campaign]
    place = place_of(summary, kept.step)
    return place, summary.scores[place]


def _pass_rate(run: Run, campaign: int) -> np.ndarray:
    records = run.traces[campaign].records
    return np.array([r.metrics["pass_rate"] for r in records if "pass_rate" in r.metrics])


def _reading(run: Run, campaign: int, values: np.ndarray) -> Reading:
    return Reading(
        len(values), group_size(run, campaign), run.config["rollout"]["problems_per_step"]
    )


def _judge_campaign(run: Run, summary: CampaignSummary, margin: float) -> CampaignVerdict:
    start, peak, end = (summary.scores[name] for name in ("start", "peak", "end"))
    trace = run.traces[summary.campaign]
    rise = None if summary.peak_step == 0 else panel_difference(peak, start)
    drop = None if summary.peak_step == summary.end_step else panel_difference(peak, end)
    gain = None if summary.end_step == 0 else panel_difference(end, start)
    rates = _pass_rate(run, summary.campaign)
    return CampaignVerdict(
        summary.campaign,
        summary.peak_step,
        summary.end_step,
        _score(start),
        _score(peak),
        _score(end),
        rise,
        drop,
        gain,
        judge(drop, peak.pass_at_1, gain, margin),
        _panel_drop(run, summary.campaign),
        of_trace(trace, WINDOW if trace.metric == "pass_rate" else 1),
        pass_rate_noise(run, summary.campaign),
        nullmodel.permute(rates, _reading(run, summary.campaign, rates)) if len(rates) else None,
    )


def _panel_drop(run: Run, campaign: int) -> PanelDrop | None:
    rates = panel_rates(run, campaign)
    if rates is None:
        return None
    found = selected_drop(rates)
    return PanelDrop(float(found.drop), float(found.p), *rates.shape)


def _adjusted(drops: Sequence[Difference | None]) -> tuple[float | None, ...]:
    adjusted = iter(holm([drop.p_above(0.0) for drop in drops if drop is not None]).tolist())
    return tuple(None if drop is None else next(adjusted) for drop in drops)


def _judge_chain(run: Run, margin: float) -> ChainVerdict:
    first, last = run.summaries[0], run.summaries[-1]
    place, kept = kept_score(run)
    start, end = first.scores["start"], last.scores["end"]
    kept_at = checkpoint_of_origin(run, last.kept)
    end_at = checkpoint_of_origin(run, Checkpoint(last.campaign, last.end_step))
    peaks = [of_trace(run.traces[summary.campaign]).peak for summary in run.summaries]
    best = run.summaries[int(peak_index(peaks))]
    best_score, best_at = best.scores["peak"], Checkpoint(best.campaign, best.peak_step)
    gain = None if kept_at is None else panel_difference(kept, start)
    same = checkpoint_of_origin(run, best_at) == kept_at
    drop = None if same else panel_difference(best_score, kept)
    return ChainVerdict(
        _score(start),
        _score(end),
        _score(kept),
        place,
        kept_at,
        end_at,
        _score(best_score),
        best.campaign,
        None if end_at is None else panel_difference(end, start),
        gain,
        drop,
        judge(drop, best_score.pass_at_1, gain, margin),
    )


def _score(score: PanelScore) -> Score:
    return Score(score.pass_at_1, score.standard_error, len(score.problem_ids), score.samples)
