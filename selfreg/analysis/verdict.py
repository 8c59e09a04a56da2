"""Did the policy collapse? The verdict on each campaign and on the chain, with its evidence.

The verdict uses the report panel. Its problems did not select the peak, so the peak's score is not
a maximum of noisy values. Start, peak and end answer the same problems with the same sampling
seeds, and their differences are paired by problem. Each test is one-sided at 5%: if the policy does
not change, 5% of the tested drops are called collapsed or declined. Two other statistics are shown
and decide nothing: the drop on the control's own panel, corrected for the selection of its peak,
and the per-step pass_rate with its stationary null.
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
      standard_error: Standard error, clustered by problem.
      problems: N, the number of problems.
      samples: Completions per problem.
    """

    pass_at_1: float
    standard_error: float
    problems: int
    samples: int


@dataclass(frozen=True, slots=True)
class PanelDrop:
    """The drop on the control's own panel, whose readings also selected the peak.

    Attributes:
      drop: Largest reading - last reading, biased upwards.
      p: p of the drop, corrected for the selection; see `selected_drop`.
      readings: K, the number of readings.
      problems: N, the number of problems.
    """

    drop: float
    p: float
    readings: int
    problems: int


@dataclass(frozen=True, slots=True)
class CampaignVerdict:
    """The verdict on one finished campaign.

    Attributes:
      campaign: Index of the campaign, from 0.
      peak_step: Step at which the control's metric peaked. The report panel did not select it.
      end_step: Last step, which is also the number of updates.
      start: Report-panel score at step 0.
      peak: Report-panel score at `peak_step`.
      end: Report-panel score at `end_step`.
      rise: peak - start; None if the peak is the start, so that the rise is 0 by construction.
      drop: peak - end; None if the end is the peak, so that the drop is 0 by construction.
      gain: end - start; None if no update was made.
      finding: The verdict; see `judge`.
      panel: The drop on the control's panel; None if its completions were not kept.
      shape: Trajectory of the control's metric; pass_rate after its rolling mean.
      noise: The per-step pass_rate compared with its stationary null; None if the training
        completions were not kept.
      permuted: The per-step pass_rate compared with its own steps in random order; None if no
        samples were drawn.
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
    """The verdict on a chain, from the initial policy to the last finished campaign.

    Attributes:
      start: Score of the initial policy.
      end: Score at the end of the last finished campaign.
      kept: Score of the policy that the control hands on.
      kept_place: Place of the kept policy in its campaign: "end" or "peak", or the chain's "start".
      kept_at: Checkpoint that first held the kept policy; None if it is the initial policy.
      end_at: Checkpoint that first held the end policy; None if it is the initial policy.
      best: Score at the peak of the campaign whose control metric peaked highest.
      best_campaign: Index of that campaign.
      end_change: end - start; None if they are the same policy.
      kept_change: kept - start; None if they are the same policy.
      drop: best - kept; None if they are the same policy.
      finding: The verdict on `drop` and `kept_change`; see `judge`.
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
    """The verdict on one run.

    Attributes:
      condition: The condition, which names how campaigns were controlled.
      seed: Seed of the chain.
      control_metric: The metric that the control read.
      finished: Whether all campaigns have ended.
      planned_campaigns: Number of campaigns in the config.
      updates: Updates made so far.
      margin: Margin that `judge` used.
      campaigns: Verdicts on the finished campaigns.
      holm: p of each campaign's drop, Holm-adjusted for the number of tested drops; None if the
        drop was not tested.
      chain: Verdict on the chain; None before a campaign has ended.
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
    """Return the finding on a drop from peak to end and on the gain from start to end.

    The finding is the first of these that holds:

    - `nothing to lose`: end and peak differ, but the peak is below the margin, so that no drop
      could reach the margin.
    - `collapsed`: the drop is above 0 beyond noise, and at least the margin.
    - `declined`: the drop is above 0 beyond noise, and smaller than the margin.
    - `not distinguishable from noise`: the drop is not below the margin beyond noise either. The
      panel is too small to decide.
    - `improved`: the gain is above 0 beyond noise.
    - `the end is the peak`: both are the same checkpoint.
    - `stable`: the drop is below the margin beyond noise (an equivalence test).

    "Beyond noise" means a one-sided t test over problems at `level`.

    Args:
      drop: peak - end on the report panel; None if they are the same policy.
      peak: pass@1 at the peak.
      gain: end - start; None if they are the same policy.
      margin: The smallest drop that counts as a collapse.
      level: Level of each test, and so the probability that a drop of 0 is called collapsed or
        declined.
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
      ValueError: Two scores come from different panels.
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
    """Compare a campaign's pass_rate with its stationary null; None if its groups were not kept."""
    passed = passed_counts(run, campaign)
    if not len(passed):
        return None
    values = _pass_rate(run, campaign)
    return nullmodel.compare(values, passed, _reading(run, campaign, values))


def kept_score(run: Run) -> tuple[str, PanelScore]:
    """Return the place (start, peak or end) and score of the policy that a run hands on.

    The run must have a finished campaign.
    """
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
