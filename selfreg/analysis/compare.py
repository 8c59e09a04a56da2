"""Runs side by side: one table, and differences between conditions paired by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from selfreg.analysis import words
from selfreg.analysis.load import Run, label_runs
from selfreg.analysis.stats import (
    ENUMERATED_FLIPS,
    Difference,
    SeedDifference,
    panel_difference,
    seed_difference,
)
from selfreg.analysis.verdict import RunVerdict, kept_score
from selfreg.records import PanelScore
from selfreg.rundir import flatten


class Judged(NamedTuple):
    """A run and its verdict."""

    run: Run
    verdict: RunVerdict


@dataclass(frozen=True, slots=True)
class Pairing:
    """What one condition's chains keep, minus what another's keep, on the seeds that both finished.

    Attributes:
      name: The condition that is subtracted from.
      baseline: The condition that is subtracted.
      seeds: The shared seeds, ascending.
      updates: Updates made by `name` and by `baseline` on each seed.
      by_seed: The difference on each seed, paired by problem.
      over_seeds: The mean of those differences; None for fewer than two seeds.
      left_out: Seeds that both ran but that cannot be paired: unfinished, or of other panels.
    """

    name: str
    baseline: str
    seeds: tuple[int, ...]
    updates: tuple[tuple[int, int], ...]
    by_seed: tuple[Difference, ...]
    over_seeds: SeedDifference | None
    left_out: tuple[int, ...]


def table(judged: Sequence[Judged]) -> list[dict[str, str]]:
    """One row a run, by condition and seed: report-panel scores ± one standard error."""
    rows = []
    for label, (run, verdict) in _ordered(judged):
        done = f"{len(verdict.campaigns)}/{verdict.planned_campaigns}"
        row = {"condition": label, "seed": str(run.seed), "done": done, "updates": str(run.updates)}
        chain = verdict.chain
        scores = (chain.start, chain.best, chain.end, chain.kept) if chain else ()
        shown = [words.score(score) for score in scores] or ["-"] * 4
        rows.append(row | dict(zip(("start", "best peak", "end", "kept"), shown, strict=True)))
    return rows


def pair(judged: Sequence[Judged]) -> list[Pairing]:
    """Every two conditions with a seed in common, the first in the alphabet subtracted.

    Raises:
      ValueError: Two runs have one condition and seed.
    """
    chains: dict[str, dict[int, Judged]] = {}
    for label, one in _ordered(judged):
        own = chains.setdefault(label, {})
        if one.run.seed in own:
            raise ValueError(
                f"two runs are {label} seed {one.run.seed}: {own[one.run.seed].run.folder} and "
                f"{one.run.folder}; compare a folder that holds one of them"
            )
        own[one.run.seed] = one
    found = []
    for baseline, name in combinations(chains, 2):
        both = sorted(chains[baseline].keys() & chains[name].keys())
        if both:
            twos = {seed: (chains[name][seed], chains[baseline][seed]) for seed in both}
            found.append(_pair(name, baseline, twos))
    return found


def describe(pairing: Pairing) -> list[str]:
    """A pairing in words; the last line is a warning when the updates made differ."""
    title = f"Kept by {pairing.name} - kept by {pairing.baseline}"
    over = pairing.over_seeds
    lines = [] if over is None else [f"{title}: {_over_seeds(over)}."]
    lines += [
        f"{title}, seed {seed}: {words.change(by)}, paired by problem "
        f"(n = {by.problems} problems x {by.samples} samples)."
        for seed, by in zip(pairing.seeds, pairing.by_seed, strict=True)
    ]
    if len(pairing.seeds) == 1:
        lines.append("One seed: its interval does not say what another training seed would give.")
    if pairing.left_out:
        seeds = ", ".join(str(seed) for seed in sorted(pairing.left_out))
        lines.append(f"{title}, not paired: seed {seeds}, unfinished or of other report panels.")
    if any(ours != theirs for ours, theirs in pairing.updates):
        ours, theirs = (
            ", ".join(str(u) for u in made) for made in zip(*pairing.updates, strict=True)
        )
        lines.append(
            f"WARNING: the conditions made different numbers of updates ({pairing.name} {ours}; "
            f"{pairing.baseline} {theirs}). Updating less may be all that makes the difference: a "
            "control with equal updates is owed."
        )
    return lines


def config_differences(runs: Sequence[Run]) -> list[str]:
    """Config keys in which runs differ, besides name, seed and condition, with their values."""
    flat = [flatten(run.config) for run in runs]
    keys = sorted(set().union(*flat) - {"name", "seed", "condition"})
    values = {key: sorted({repr(one.get(key)) for one in flat}) for key in keys}
    return [f"{key}: {', '.join(found)}" for key, found in values.items() if len(found) > 1]


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of the same columns as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _ordered(judged: Sequence[Judged]) -> list[tuple[str, Judged]]:
    labelled = zip(label_runs([one.run for one in judged]), judged, strict=True)
    return sorted(labelled, key=lambda item: (item[0], item[1].run.seed))


def _pair(name: str, baseline: str, twos: Mapping[int, tuple[Judged, Judged]]) -> Pairing:
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
    )


def _comparable(a: Judged, b: Judged) -> bool:
    both_finished = a.run.finished and b.run.finished
    return both_finished and _kept(a).problem_ids == _kept(b).problem_ids


def _kept(one: Judged) -> PanelScore:
    return kept_score(one.run)[1]


def _over_seeds(over: SeedDifference) -> str:
    n = len(over.differences)
    words_of = f"mean over n = {n} seeds {over.mean:+.3f}"
    for name, (low, high) in (("t", over.t), ("bootstrap", over.bootstrap)):
        words_of += f", 95% {name} interval [{low:+.3f}, {high:+.3f}]"
    kind = "exact " if n <= ENUMERATED_FLIPS else ""
    floor = f" (at least {2 ** (1 - n):.3g} here)" if kind else ""
    return f"{words_of}, {kind}sign-flip p = {over.sign_flip_p:.3g}{floor}"
