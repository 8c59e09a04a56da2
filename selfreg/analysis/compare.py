"""Compare runs: a table of all of them, and differences between conditions paired by seed."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from selfreg.analysis import words
from selfreg.analysis.load import Run, label_runs
from selfreg.analysis.stats import (
    Difference,
    SeedDifference,
    holm,
    panel_difference,
    seed_difference,
    t_interval,
)
from selfreg.analysis.verdict import RunVerdict, kept_score
from selfreg.run.algorithm import defaults, find_algorithm
from selfreg.run.conditions import CONDITIONS, DEFAULTS
from selfreg.run.config import completed
from selfreg.run.records import PanelScore
from selfreg.run.rundir import flatten

NAIVE = "A0"
BY_CONDITION = "by condition"
# Keys in which the chains of a comparison may differ; all other keys should be equal.
PER_CHAIN = {
    "name", "seed", "condition", "share_first_campaign_of", "control.match_updates_of",
}  # fmt: skip


class Judged(NamedTuple):
    """A run and its verdict."""

    run: Run
    verdict: RunVerdict


@dataclass(frozen=True, slots=True)
class Pairing:
    """The kept scores of one condition minus those of another, on the seeds that both finished.

    Attributes:
      name: The condition of interest (the minuend).
      baseline: The condition that is subtracted.
      seeds: The shared seeds, ascending.
      updates: Updates made by `name` and by `baseline`, for each seed.
      by_seed: The difference of each seed, paired by problem.
      over_seeds: The mean of these differences; None for fewer than two seeds.
      left_out: Seeds that both ran but that cannot be paired, because a run is unfinished or the
        report panels differ.
      equal_updates: Whether `name` has an equal-updates control among the runs, or is one itself.
    """

    name: str
    baseline: str
    seeds: tuple[int, ...]
    updates: tuple[tuple[int, int], ...]
    by_seed: tuple[Difference, ...]
    over_seeds: SeedDifference | None
    left_out: tuple[int, ...]
    equal_updates: bool


def table(judged: Sequence[Judged]) -> list[dict[str, str]]:
    """Tabulate report-panel scores ± one standard error, one row per run."""
    rows = []
    for label, (run, verdict) in _ordered(judged):
        done = f"{len(verdict.campaigns)}/{verdict.planned_campaigns}"
        row = {"condition": label, "seed": str(run.seed), "done": done, "updates": str(run.updates)}
        chain = verdict.chain
        scores = (chain.start, chain.best, chain.end, chain.kept) if chain else ()
        shown = [words.score(score) for score in scores] or ["-"] * 4
        rows.append(row | dict(zip(("start", "best peak", "end", "kept"), shown, strict=True)))
    return rows


def summary(judged: Sequence[Judged]) -> list[dict[str, str]]:
    """Tabulate means over finished seeds with 95% t intervals, one row per condition.

    Conditions with fewer than two finished seeds have no row: `table` shows them.
    """
    rows = []
    for label, own in _by_condition(judged).items():
        done = [one for one in own.values() if one.run.finished]
        chains = [one.verdict.chain for one in done if one.verdict.chain]
        if len(chains) > 1:
            places = {"end": [c.end for c in chains], "kept": [c.kept for c in chains]}
            rows.append(
                {"condition": label, "seeds": str(len(chains))}
                | {"updates": _range(one.run.updates for one in done)}
                | {k: _mean([score.pass_at_1 for score in v]) for k, v in places.items()}
            )
    return rows


def pair(judged: Sequence[Judged], baseline: str = "") -> list[Pairing]:
    """Subtract its baseline, and its equal-updates control if there is one, from each condition.

    Args:
      judged: The runs. A run whose control.match_updates_of is another run's folder is the
        equal-updates control of that run's condition.
      baseline: The condition to subtract, as `table` names it. "" selects the naive A0 with the
        same config.name, else the only A0, else the alphabetically first condition with the same
        config.name.

    Raises:
      ValueError: Two runs share a condition and seed, or no run has the baseline condition.
    """
    chains = _by_condition(judged)
    if baseline and baseline not in chains:
        raise ValueError(f"--baseline={baseline}: the conditions are {', '.join(chains)}")
    equal = _equal_controls(chains)
    found = []
    for name in chains:
        for other in (baseline or _baseline(name, chains), equal.get(name)):
            both = sorted(chains[name].keys() & chains[other].keys()) if other else []
            if both and other and other != name:
                twos = {seed: (chains[name][seed], chains[other][seed]) for seed in both}
                found.append(_pair(name, other, twos, name in equal or name in equal.values()))
    return found


def differences(pairings: Sequence[Pairing]) -> list[dict[str, str]]:
    """Tabulate the pairings of at least two seeds; p is Holm-adjusted over the rows."""
    several = [(pairing, pairing.over_seeds) for pairing in pairings if pairing.over_seeds]
    adjusted = holm([over.sign_flip_p for _, over in several])
    rows = []
    for (pairing, over), p in zip(several, adjusted, strict=True):
        ours, theirs = (_range(made) for made in zip(*pairing.updates, strict=True))
        (low, high), (least, most) = over.t, over.bootstrap
        rows.append(
            {
                "kept by": f"{pairing.name} - {pairing.baseline}",
                "seeds": str(len(pairing.seeds)),
                "mean [95% t]": f"{over.mean:+.3f} [{low:+.3f}, {high:+.3f}]",
                "[95% bootstrap]": f"[{least:+.3f}, {most:+.3f}]",
                "sign-flip p": f"{over.sign_flip_p:.3g}",
                "Holm p": f"{p:.3g}",
                "updates": f"{ours}; {theirs}",
                "by seed": ", ".join(f"{d:+.2f}" for d in over.differences),
            }
        )
    return rows


def describe(pairing: Pairing) -> list[str]:
    """Return the notes to a pairing, and sentences in place of a table row if it has one seed."""
    title = f"Kept by {pairing.name} - kept by {pairing.baseline}"
    lines = []
    if len(pairing.seeds) == 1:
        (seed,), (by,) = pairing.seeds, pairing.by_seed
        lines = [
            f"{title}, seed {seed}: {words.change(by)}, paired by problem "
            f"(n = {by.problems} problems x {by.samples} samples).",
            "This is one training seed: the interval says nothing about other seeds.",
        ]
    if pairing.left_out:
        seeds = ", ".join(str(seed) for seed in sorted(pairing.left_out))
        lines.append(
            f"{title}: seed {seeds} left out, because a run is unfinished or the report panels "
            "differ."
        )
    if not pairing.equal_updates and any(ours != theirs for ours, theirs in pairing.updates):
        ours, theirs = (
            ", ".join(str(u) for u in made) for made in zip(*pairing.updates, strict=True)
        )
        lines.append(
            f"WARNING: the conditions made different numbers of updates ({pairing.name} {ours}; "
            f"{pairing.baseline} {theirs}). The number of updates alone may explain the "
            "difference. Run a control with equal updates (condition EQ)."
        )
    return lines


def config_differences(runs: Sequence[Run]) -> list[str]:
    """List the config keys in which runs differ, except name, seed and those of their condition."""
    own = [_own_settings(run) for run in runs]
    keys = sorted(set().union(*own) - PER_CHAIN)
    values = {key: sorted({repr(one.get(key, BY_CONDITION)) for one in own}) for key in keys}
    return [f"{key}: {', '.join(found)}" for key, found in values.items() if len(found) > 1]


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Format rows with equal columns as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _ordered(judged: Sequence[Judged]) -> list[tuple[str, Judged]]:
    labelled = zip(label_runs([one.run for one in judged]), judged, strict=True)
    return sorted(labelled, key=lambda item: (item[0], item[1].run.seed))


def _own_settings(run: Run) -> dict[str, Any]:
    """Return a run's flattened config without the values that its condition or algorithm sets."""
    flat = completed(flatten(run.config))
    made = {**DEFAULTS, **CONDITIONS.get(run.condition, {})}
    with suppress(ValueError):  # the algorithm may be a user's file that no longer exists
        algorithm = find_algorithm(str(flat.get("learn.algorithm")))
        made |= {f"learn.{key}": value for key, value in defaults(algorithm).items()}
    return {key: value for key, value in flat.items() if key not in made or value != made[key]}


def _by_condition(judged: Sequence[Judged]) -> dict[str, dict[int, Judged]]:
    """Map condition -> seed -> chain.

    Raises:
      ValueError: Two runs share a condition and seed.
    """
    chains: dict[str, dict[int, Judged]] = {}
    for label, one in _ordered(judged):
        own = chains.setdefault(label, {})
        if one.run.seed in own:
            raise ValueError(
                f"two runs are {label} seed {one.run.seed}: {own[one.run.seed].run.folder} and "
                f"{one.run.folder}; name a folder that holds only one of them"
            )
        own[one.run.seed] = one
    return chains


def _baseline(name: str, chains: Mapping[str, Mapping[int, Judged]]) -> str:
    """Return the condition that is subtracted from this one by default."""
    runs = {label: next(iter(own.values())).run for label, own in chains.items()}
    alike = [label for label in chains if runs[label].config["name"] == runs[name].config["name"]]
    naive = [label for label, run in runs.items() if run.condition == NAIVE]
    own = [label for label in naive if label in alike]
    return next(iter([*own, *(naive if len(naive) == 1 else ()), *alike]))


def _equal_controls(chains: Mapping[str, Mapping[int, Judged]]) -> dict[str, str]:
    """Map each condition to the control that was told to make as many updates."""

    def place(folder: Path) -> tuple[str, ...]:
        return folder.resolve().parts[-3:]  # the folder of all runs may have moved since

    runs = [(label, one.run) for label, own in chains.items() for one in own.values()]
    labels = {place(run.folder): label for label, run in runs}
    told = {label: run.config.get("control", {}).get("match_updates_of") for label, run in runs}
    found = {labels.get(place(Path(folder))): label for label, folder in told.items() if folder}
    return {name: label for name, label in found.items() if name}


def _pair(
    name: str, baseline: str, twos: Mapping[int, tuple[Judged, Judged]], equal_updates: bool
) -> Pairing:
    fit = {seed: two for seed, two in twos.items() if _comparable(*two)}
    by_seed = tuple(panel_difference(_kept(a), _kept(b)) for a, b in fit.values())
    means = [difference.mean for difference in by_seed]
    return Pairing(
        name,
        baseline,
        tuple(fit),
        tuple((a.run.updates, b.run.updates) for a, b in fit.values()),
        by_seed,
        seed_difference(means) if len(means) > 1 else None,
        tuple(twos.keys() - fit.keys()),
        equal_updates,
    )


def _comparable(a: Judged, b: Judged) -> bool:
    both_finished = a.run.finished and b.run.finished
    return both_finished and _kept(a).problem_ids == _kept(b).problem_ids


def _kept(one: Judged) -> PanelScore:
    return kept_score(one.run)[1]


def _range(counts: Iterable[int]) -> str:
    """Format a range as "52-55", or as "100" if all counts are equal."""
    values = list(counts)
    return "-".join(str(value) for value in sorted({min(values), max(values)}))


def _mean(values: Sequence[float]) -> str:
    low, high = t_interval(values)
    return f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]"
