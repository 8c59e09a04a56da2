"""Many chains at once: what the within-campaign oracles would have kept, and each chain's totals.

Everything takes arrays [chains, campaigns, steps] with NaN for what was not measured or not run,
so that ten thousand chains take seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfreg.analysis.trajectory import Shapes, exceeds, shapes
from selfreg.run.records import Trace

DECLINE, DECLINES = 0.02, 3


@dataclass(frozen=True, slots=True)
class Stops:
    """Where the online rule stops series of shape [..., n]: arrays of shape [...].

    Attributes:
      stop_step: Step of the reading after which it stops; the last measured step where the rule
        never fires; NaN without a value.
      kept: The running peak at that moment, which is what it rolls forward.
      kept_step: Its step.
      fired: bool: whether the rule fired.
    """

    stop_step: np.ndarray
    kept: np.ndarray
    kept_step: np.ndarray
    fired: np.ndarray


@dataclass(frozen=True, slots=True)
class Chains:
    """Statistics of N chains of C campaigns; float64, NaN where undefined.

    Attributes:
      campaigns: Shapes of every campaign, arrays [N, C].
      stops: What the online rule makes of every campaign, arrays [N, C].
      end: [N], the end of the last campaign that was measured.
      carry_over: [C], mean end of the campaigns at each position, over the chains that have one.
      total_steps: [N], updates of all campaigns.
      per_100_steps: [N], 100 * end / total_steps: the paper's compute efficiency. NaN for a chain
        without updates.
      collapses: [N], campaigns with end / peak < 0.3.
      trace_oracle: [N], what the online rule keeps of the last campaign. It is a maximum of noisy
        values: see nullmodel.selection_bias.
      trace_oracle_steps: [N], updates until the online rule stops, summed over campaigns.
      hindsight_oracle: [N], the largest value of any step of any campaign; a maximum too.
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
    """The online early stop on stored series: the paper's trace oracle.

    It keeps a running peak, and stops after `declines` consecutive readings that each lie more than
    `decline` below it. A reading that does not, or is a new peak, starts the count again; steps
    without a reading leave it as it is.

    Args:
      values: float [..., n], NaN where nothing was measured.
      steps: [n], the step of each value; 0 .. n - 1 by default.
      decline: How far below the running peak a reading must lie, exclusive.
      declines: How many of them in a row.
    """
    values = np.asarray(values, np.float64)
    at = np.arange(values.shape[-1]) if steps is None else np.asarray(steps)
    shape = values.shape[:-1]
    peak, kept_step = np.full(shape, -np.inf), np.full(shape, np.nan)
    stop_step, count = np.full(shape, np.nan), np.zeros(shape, np.int64)
    fired = np.zeros(shape, bool)
    for i, step in enumerate(at):  # of one campaign: a few hundred at most
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
    """Statistics of many chains.

    Args:
      values: float [N, C, n], NaN where nothing was measured; a campaign of NaN alone was not run.
      updates: [N, C], optimizer updates made in each campaign; 0 where it was not run.
      steps: [n], the step of each value; 0 .. n - 1 by default.

    Raises:
      ValueError: The shapes do not fit.
    """
    values, updates = np.asarray(values, np.float64), np.asarray(updates)
    if values.ndim != 3 or updates.shape != values.shape[:2]:
        raise ValueError(
            f"needs values [chains, campaigns, steps] and updates [chains, campaigns], not "
            f"{values.shape} and {updates.shape}"
        )
    own, stops = shapes(values, steps), online_stop(values, steps)
    ran = ~np.isnan(own.end)
    last = values.shape[1] - 1 - ran[:, ::-1].argmax(axis=1)
    rows = np.arange(len(values))
    end, total = own.end[rows, last], updates.sum(axis=1)
    highest = np.where(ran, own.peak, -np.inf).max(axis=1)
    # A rule that fires at a reading has made the updates before it; one that does not, makes all.
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
    """The traces of some chains as arrays.

    Args:
      chains_of: For each chain its traces by campaign, in order; a trace whose metric was never
        measured counts as not run.

    Returns:
      values [N, C, n] of each trace's metric at steps 0 .. n - 1, and updates [N, C]. N, C and n
      are what the largest needs, and the rest is NaN and 0.

    Raises:
      ValueError: There is no chain, or none with a trace.
    """
    campaigns = max((len(traces) for traces in chains_of), default=0)
    if not campaigns:
        raise ValueError("there is no trace to stack")
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
    """Mean over the first axis of the values that count; NaN where none does."""
    count = where.sum(axis=0)
    sums = np.where(where, values, 0.0).sum(axis=0)
    return np.divide(sums, count, out=np.full(sums.shape, np.nan), where=count > 0)
