"""Collect the stored chains of the paper's waves, and their measurements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from selfreg.analysis.chains import Chains, chains, stack
from selfreg.analysis.load import Run, group_size, passed_counts
from selfreg.analysis.nullmodel import Reading, fit_beta, readings
from selfreg.analysis.paper import published
from selfreg.analysis.trajectory import WINDOW, rolling_mean
from selfreg.run.records import PanelScore, Trace

NULL_DRAWS = 400
REPORT_PANEL = "report panel"
_TINY = "tiny"

# Returns one value per chain; NaN if it is undefined.
Statistic = Callable[[Chains], np.ndarray]


@dataclass(frozen=True, slots=True)
class PaperRuns:
    """The finished chains that the paper's tables read.

    Attributes:
      chains: WAVE/CONDITION -> its chains, by seed.
      tiny: Whether the chains are the waves' tiny variant.
      left_out: The chains that were left out, with the reason, in words.
    """

    chains: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    tiny: bool = False
    left_out: tuple[str, ...] = ()

    def of(self, source: str) -> tuple[Run, ...]:
        """Return the chains of WAVE/CONDITION by seed; empty if nothing ran."""
        return self.chains.get(source, ())

    def both(self, one: str, other: str) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """Return the chains of two sources on the seeds that both have, in the same order."""
        seeds = {run.seed for run in self.of(one)} & {run.seed for run in self.of(other)}
        first, second = (tuple(r for r in self.of(s) if r.seed in seeds) for s in (one, other))
        return first, second


def collect(runs: Sequence[Run]) -> PaperRuns:
    """Collect the chains of the paper's waves, and ignore all other runs.

    config.name, without its part "tiny", names the wave of a chain. If both tiny and full chains
    exist, only the full ones are used, because the two measure different things.

    Raises:
      ValueError: Two finished runs are the same chain, or the chains of a condition differ in
        config.campaigns.
    """
    known = [run for run in runs if source_of(run) in published.sources()]
    full = [run for run in known if not _is_tiny(run)]
    taken, left_out = full or known, []
    if len(taken) < len(known):
        left_out.append(f"tiny chains ({len(known) - len(taken)}), because full chains exist")
    found: dict[str, dict[int, Run]] = {}
    for run in taken:
        source = source_of(run)
        own = found.setdefault(source, {})
        if not run.finished:
            left_out.append(f"{source} seed {run.seed}, unfinished")
        elif run.seed in own:
            raise ValueError(
                f"two runs are {source} seed {run.seed}: {own[run.seed].folder} and {run.folder}; "
                "name a folder that holds only one of them"
            )
        else:
            own[run.seed] = run
    for source, own in found.items():
        if len({run.config["campaigns"] for run in own.values()}) > 1:
            raise ValueError(
                f"the chains of {source} differ in config.campaigns; name a folder that holds only "
                "one kind"
            )
    return PaperRuns(
        {s: tuple(own[seed] for seed in sorted(own)) for s, own in found.items() if own},
        bool(taken) and not full,
        tuple(left_out),
    )


def source_of(run: Run) -> str:
    """Return WAVE/CONDITION of a run."""
    wave = "-".join(part for part in _parts(run) if part != _TINY)
    return f"{wave}/{run.condition}"


def metric_of(runs: Sequence[Run]) -> str:
    """Name the metric that the controls of these chains read, with its rolling mean."""
    metric = str(runs[0].config["control_metric"])
    return f"{metric}, mean of {WINDOW} steps" if metric == "pass_rate" else metric


def measured(runs: Sequence[Run]) -> Chains:
    """Compute the statistics of these chains from the metric that their controls read."""
    values, updates = series(runs)
    return chains(values, updates)


def series(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Return the metric that the controls read, [N, C, n], and the updates per campaign, [N, C].

    The metric is NaN where nothing was measured; pass_rate is smoothed by its rolling mean.
    """
    values, updates = stack([run.traces for run in runs])
    if runs[0].config["control_metric"] == "pass_rate":  # measured at every step: NaN only at ends
        values = rolling_mean(values)
    return values, updates


def panel_scores(runs: Sequence[Run], place: str, campaign: int = -1) -> list[PanelScore]:
    """Return each chain's report-panel score at a place of a campaign, by default the last."""
    return [run.summaries[campaign].scores[place] for run in runs]


def panel(runs: Sequence[Run], place: str) -> np.ndarray:
    """Return the report panel's pass@1 of every campaign at a place, float64 [N, C]."""
    return np.array([[s.scores[place].pass_at_1 for s in run.summaries] for run in runs])


def ends(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """Return end-of-chain pass@1, [N], by the metric of the controls and by the report panel."""
    return {
        metric_of(runs): measured(runs).end,
        REPORT_PANEL: panel(runs, "end")[:, -1],
    }


def null_chains(runs: Sequence[Run], draws: int = NULL_DRAWS) -> Chains | None:
    """Simulate these chains as if no policy had changed within a campaign.

    Each campaign is replaced by a stationary one of the same length. The rates of its problems have
    a Beta distribution with the moments of the campaign's own groups; see nullmodel.

    Returns:
      The statistics of draws x N chains, beginning with the N chains of the first draw. None if the
      controls do not read pass_rate, or the groups of a campaign were not kept.
    """
    if any(run.config["control_metric"] != "pass_rate" for run in runs):
        return None
    values, updates = series(runs)
    null = np.full((draws, *values.shape), np.nan)
    for i, run in enumerate(runs):
        for c, trace in enumerate(run.traces):
            drawn = null_campaign(run, trace, draws, seed=i * values.shape[1] + c)
            if drawn is None:
                return None
            null[:, i, c, : drawn.shape[1]] = drawn
    return chains(null.reshape(-1, *values.shape[1:]), np.tile(updates, (draws, 1)))


def null_campaign(run: Run, trace: Trace, draws: int, seed: int = 0) -> np.ndarray | None:
    """Simulate the smoothed pass_rate of stationary campaigns.

    Returns:
      float64 [draws, n]; None if the campaign's groups were not kept.
    """
    _, values = trace.series()
    samples = group_size(run, trace.campaign)
    problems = int(run.config["rollout"]["problems_per_step"])
    # With one problem per step, pass_rate gives the passed count even without the completions.
    one = problems == 1
    passed = np.rint(values * samples).astype(int) if one else passed_counts(run, trace.campaign)
    if not len(passed):
        return None
    drawn = readings(
        fit_beta(passed, samples), Reading(len(values), samples, problems), draws, seed
    )
    return rolling_mean(drawn)


def mean(values: np.ndarray) -> np.ndarray:
    """Average the defined values over the last axis; NaN where none is defined."""
    defined = ~np.isnan(values)
    count, total = defined.sum(axis=-1), np.where(defined, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _parts(run: Run) -> list[str]:
    return str(run.config["name"]).split("-")


def _is_tiny(run: Run) -> bool:
    return _TINY in _parts(run)
