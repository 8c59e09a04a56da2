"""Statistics of many chains at once: the within-campaign oracles and the totals of each chain.

All functions take arrays [chains, campaigns, steps]. NaN marks values that were not measured or not
run. Ten thousand chains take seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfreg.analysis.trajectory import Shapes, exceeds, shapes
from selfreg.run.records import Trace

DECLINE, DECLINES = 0.02, 3


@dataclass(frozen=True, slots=True)
class Stops:
    """The stops of the online rule in many series [..., n], as arrays of shape [...].

    Attributes:
      stop_step: Step of the reading at which the rule stops. If it never fires: the last measured
        step. NaN without any reading.
      kept: The running peak at that step, which the rule rolls forward.
      kept_step: Step of that peak.
      fired: bool, whether the rule fired.
    """

    stop_step: np.ndarray
    kept: np.ndarray
    kept_step: np.ndarray
    fired: np.ndarray


@dataclass(frozen=True, slots=True)
class Chains:
    """Statistics of N chains of C campaigns; float64, NaN where undefined.

    Attributes:
      campaigns: Shapes of all campaigns, arrays [N, C].
      stops: Stops of the online rule in all campaigns, arrays [N, C].
      end: [N], end of the last measured campaign.
      carry_over: [C], mean end of the campaigns at each position, over the chains that reached it.
      total_steps: [N], updates of all campaigns.
      per_100_steps: [N], 100 * end / total_steps, the paper's compute efficiency. NaN for a chain
        without updates.
      collapses: [N], number of campaigns with end / peak < 0.3.
      trace_oracle: [N], the value that the online rule keeps from the last campaign. It is a
        maximum of noisy values: see nullmodel.selection_bias.
      trace_oracle_steps: [N], updates until the online rule stops, summed over campaigns.
      hindsight_oracle: [N], largest value of any step of any campaign; also a maximum of noisy
        values.
    """

    campaigns: Shapes
    stops: Stops
    end: np.ndarray
    carry_over: np.ndarray
    total_steps: np.ndarray
    per_100_steps: np.ndarray
    collapses: np.ndarray
    trace_oracle: np.ndarray
    trace_oracle_steps: np.ndarray
    hindsight_oracle: np.ndarray


def online_stop(
    values: np.ndarray,
    steps: np.ndarray | None = None,
    decline: float = DECLINE,
    declines: int = DECLINES,
) -> Stops:
    """Apply the online early stop to stored series: the paper's trace oracle.

    The rule keeps a running peak. It stops after `declines` consecutive readings that each lie more
    than `decline` below the peak. Any other reading resets the count. Steps without a reading do
    not change the count.

    Args:
      values: float [..., n], NaN where nothing was measured.
      steps: [n], step of each value; 0 .. n - 1 by default.
      decline: How far below the running peak a reading must lie, exclusive.
      declines: Number of consecutive readings that must lie this low.
    """
    values = np.asarray(values, np.float64)
    at = np.arange(values.shape[-1]) if steps is None else np.asarray(steps)
    shape = values.shape[:-1]
    peak, kept_step = np.full(shape, -np.inf), np.full(shape, np.nan)
    stop_step, count = np.full(shape, np.nan), np.zeros(shape, np.int64)
    fired = np.zeros(shape, bool)
    for i, step in enumerate(at):  # a campaign has a few hundred steps at most
        value = values[..., i]
        read = ~fired & ~np.isnan(value)
        higher = read & (value > peak)
        peak, kept_step = np.where(higher, value, peak), np.where(higher, step, kept_step)
        low = exceeds(peak - decline, value)
        count = np.where(read, np.where(low, count + 1, 0), count)
        stop_step = np.where(read, step, stop_step)
        fired |= count >= declines
    return Stops(stop_step, np.where(np.isfinite(peak), peak, np.nan), kept_step, fired)


def chains(values: np.ndarray, updates: np.ndarray, steps: np.ndarray | None = None) -> Chains:
    """Compute the statistics of many chains.

    Args:
      values: float [N, C, n], NaN where nothing was measured. A campaign of only NaN was not run.
      updates: [N, C], optimizer updates of each campaign; 0 if it was not run.
      steps: [n], step of each value; 0 .. n - 1 by default.

    Raises:
      ValueError: The shapes do not match.
    """
    values, updates = np.asarray(values, np.float64), np.asarray(updates)
    if values.ndim != 3 or updates.shape != values.shape[:2]:
        raise ValueError(
            f"values must have the axes [chains, campaigns, steps], and updates the first two, not "
            f"{values.shape} and {updates.shape}"
        )
    own, stops = shapes(values, steps), online_stop(values, steps)
    ran = ~np.isnan(own.end)
    last = values.shape[1] - 1 - ran[:, ::-1].argmax(axis=1)
    rows = np.arange(len(values))
    end, total = own.end[rows, last], updates.sum(axis=1)
    highest = np.where(ran, own.peak, -np.inf).max(axis=1)
    # If the rule fires, it has made the updates before that reading. Otherwise it makes all.
    oracle_steps = np.where(stops.fired, stops.stop_step, updates)
    return Chains(
        own,
        stops,
        end,
        _mean(own.end, ran),
        total.astype(np.float64),
        np.divide(100 * end, total, out=np.full(len(values), np.nan), where=total > 0),
        own.collapsed.sum(axis=1).astype(np.float64),
        stops.kept[rows, last],
        oracle_steps.sum(axis=1).astype(np.float64),
        np.where(np.isfinite(highest), highest, np.nan),
    )


def stack(chains_of: Sequence[Sequence[Trace]]) -> tuple[np.ndarray, np.ndarray]:
    """Stack the traces of chains into arrays.

    Args:
      chains_of: The traces of each chain, in the order of its campaigns. A trace whose metric was
        never measured counts as not run.

    Returns:
      values, float [N, C, n]: the metric of each trace at steps 0 .. n - 1, padded with NaN.
      updates, int [N, C]: updates of each campaign, padded with 0.

    Raises:
      ValueError: No chain has a trace.
    """
    campaigns = max((len(traces) for traces in chains_of), default=0)
    if not campaigns:
        raise ValueError("no chain has a trace to stack")
    length = 1 + max(trace.end_step for traces in chains_of for trace in traces)
    values = np.full((len(chains_of), campaigns, length), np.nan)
    updates = np.zeros(values.shape[:2], np.int64)
    for chain, traces in enumerate(chains_of):
        for campaign, trace in enumerate(traces):
            for record in trace.records:
                values[chain, campaign, record.step] = record.metrics.get(trace.metric, np.nan)
                updates[chain, campaign] += "loss" in record.metrics
    return values, updates


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Average the selected values over the first axis; NaN where none is selected."""
    count = where.sum(axis=0)
    sums = np.where(where, values, 0.0).sum(axis=0)
    return np.divide(sums, count, out=np.full(sums.shape, np.nan), where=count > 0)
