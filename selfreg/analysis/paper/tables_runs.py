"""The stored chains of the paper's waves, and what they measured."""

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

# Of each chain one value; NaN where it is not defined.
Statistic = Callable[[Chains], np.ndarray]


@dataclass(frozen=True, slots=True)
class PaperRuns:
    """The finished chains that the paper's tables read.

    Attributes:
      chains: WAVE/CONDITION -> its chains, by seed.
      tiny: Whether they are the waves' tiny variant.
      left_out: What was not taken, and why, in words.
    """

    chains: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    tiny: bool = False
    left_out: tuple[str, ...] = ()

    def of(self, source: str) -> tuple[Run, ...]:
        """The chains of WAVE/CONDITION by seed; none where nothing ran."""
        return self.chains.get(source, ())

    def both(self, one: str, other: str) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """The chains of two sources on the seeds that both have, in the same order."""
        seeds = {run.seed for run in self.of(one)} & {run.seed for run in self.of(other)}
        first, second = (tuple(r for r in self.of(s) if r.seed in seeds) for s in (one, other))
        return first, second


def collect(runs: Sequence[Run]) -> PaperRuns:
    """Sort out the chains of the paper's waves; runs of other names are not among them.

    A chain belongs to a wave by config.name, less its part "tiny". Where there are both, only those
    that are not tiny are taken: the two measure different things.

    Raises:
      ValueError: Two finished runs are the same chain.
    """
    known = [run for run in runs if source_of(run) in published.sources()]
    full = [run for run in known if not _is_tiny(run)]
    taken, left_out = full or known, []
    if len(taken) < len(known):
        left_out.append(f"tiny chains ({len(known) - len(taken)}), as there are others")
    found: dict[str, dict[int, Run]] = {}
    for run in taken:
        source = source_of(run)
        own = found.setdefault(source, {})
        if not run.finished:
            left_out.append(f"{source} seed {run.seed}, unfinished")
        elif run.seed in own:
            raise ValueError(
                f"two runs are {source} seed {run.seed}: {own[run.seed].folder} and {run.folder}; "
                "name a folder that holds one of them"
            )
        else:
            own[run.seed] = run
    for source, own in found.items():
        if len({run.config["campaigns"] for run in own.values()}) > 1:
            raise ValueError(f"the chains of {source} differ in config.campaigns; name one kind")
    return PaperRuns(
        {s: tuple(own[seed] for seed in sorted(own)) for s, own in found.items() if own},
        bool(taken) and not full,
        tuple(left_out),
    )


def source_of(run: Run) -> str:
    """WAVE/CONDITION of a run."""
    wave = "-".join(part for part in _parts(run) if part != _TINY)
    return f"{wave}/{run.condition}"


def metric_of(runs: Sequence[Run]) -> str:
    """What the controls of these chains read, and through what."""
    metric = str(runs[0].config["control_metric"])
    return f"{metric}, mean of {WINDOW} steps" if metric == "pass_rate" else metric


def measured(runs: Sequence[Run]) -> Chains:
    """What the controls' metric says of these chains; pass_rate through its rolling mean."""
    values, updates = series(runs)
    return chains(values, updates)


def series(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """The controls' metric of some chains, [N, C, n], and the updates of each campaign, [N, C].

    NaN where nothing was measured; pass_rate is read through its rolling mean.
    """
    values, updates = stack([run.traces for run in runs])
    if runs[0].config["control_metric"] == "pass_rate":  # at every step: NaN only at the end
        values = rolling_mean(values)
    return values, updates


def panel_scores(runs: Sequence[Run], place: str, campaign: int = -1) -> list[PanelScore]:
    """Each chain's report-panel score at a place of a campaign, by default the last."""
    return [run.summaries[campaign].scores[place] for run in runs]


def panel(runs: Sequence[Run], place: str) -> np.ndarray:
    """float64 [N, C], the report panel's pass@1 of every campaign at a place."""
    return np.array([[s.scores[place].pass_at_1 for s in run.summaries] for run in runs])


def ends(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """End-of-chain pass@1 of each chain, [N], by the controls' metric and by the report panel."""
    return {
        metric_of(runs): measured(runs).end,
        REPORT_PANEL: panel(runs, "end")[:, -1],
    }


def null_chains(runs: Sequence[Run], draws: int = NULL_DRAWS) -> Chains | None:
    """What these chains would have measured had no policy changed within a campaign.

    Each campaign becomes a stationary one of the same length, its problems' rates Beta with the
    moments of the campaign's own groups; see nullmodel.

    Returns:
      The statistics of draws x N chains, the N of the first draw first; None where the controls do
      not read pass_rate, or the groups of a campaign were not kept.
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
    """float64 [draws, n], the pass_rate of stationary campaigns through its rolling mean.

    None where the campaign's groups were not kept.
    """
    _, values = trace.series()
    samples = group_size(run, trace.campaign)
    problems = int(run.config["rollout"]["problems_per_step"])
    # Of one problem a step pass_rate says how many passed, also where completions were not kept.
    one = problems == 1
    passed = np.rint(values * samples).astype(int) if one else passed_counts(run, trace.campaign)
    if not len(passed):
        return None
    drawn = readings(
        fit_beta(passed, samples), Reading(len(values), samples, problems), draws, seed
    )
    return rolling_mean(drawn)


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    count, total = defined.sum(axis=-1), np.where(defined, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _parts(run: Run) -> list[str]:
    return str(run.config["name"]).split("-")


def _is_tiny(run: Run) -> bool:
    return _TINY in _parts(run)
