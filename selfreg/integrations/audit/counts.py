"""Find out how many completions of how many problems one logged value averages.

The sources are, in this order: the flags, the settings in the log, and the values themselves, as
means of N zeros and ones are multiples of 1/N. If all fail, the noise has to be measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfreg.integrations.audit.samples import HIGH, LEVELS, LOW, PROBLEMS, SAMPLES
from selfreg.integrations.audit.settings import GROUP
from selfreg.integrations.audit.settings import PROBLEMS as BATCH

EPISODES = ("env/all/total_episodes", "train/env/all/total_episodes")
_MOST = 1 << 17
_FLOAT32 = 2.0**-22
_SLACK = 1e-9
# Values rounded more coarsely than this share of 1/N fit almost any N.
_COARSE = 0.5
_ACCIDENT = 1e-3


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of completions and problems that the logged values average.

    Attributes:
      samples: Completions behind one value; None if unknown, or if rewards are not binary.
      problems: Distinct problems among these completions; None if unknown.
      low: Reward that is mapped to 0.
      high: Reward that is mapped to 1.
      rate: Whether values are judged on the scale from low to high, or else in their own unit.
      why: Source of these numbers, as a clause.
    """

    samples: int | None
    problems: int | None
    low: float
    high: float
    rate: bool
    why: str


def choose(
    values: np.ndarray,
    samples: float | None = None,
    problems: float | None = None,
    low: float | None = None,
    high: float | None = None,
    facts: Mapping[str, float] | None = None,
    parts: Sequence[str] = (),
) -> Counts:
    """Decide what the logged values are means of.

    Args:
      values: float64 [n], finite, as logged.
      samples: Completions behind one value, if the caller knows.
      problems: Distinct problems among them, if the caller knows.
      low: Reward of a failed completion; None for 0 if the values lie between 0 and 1.
      high: Reward of a passed completion; None for 1 if the values lie between 0 and 1.
      facts: Settings that the log states.
      parts: Rewards whose sum the metric may be.

    Raises:
      ValueError: A count is not a positive whole number, samples is not a multiple of problems, or
        a value lies outside [low, high].
    """
    facts = facts or {}
    samples, problems = _count(samples, "samples_per_step"), _count(problems, "problems_per_step")
    if samples is not None and problems is not None and (problems > samples or samples % problems):
        raise ValueError(
            f"samples_per_step={samples}, problems_per_step={problems}: every problem needs the "
            "same number of completions, so the first must be a multiple of the second"
        )
    least, most = float(values.min()), float(values.max())
    if low is None and high is None and facts.get(LEVELS) == 2:
        low, high = facts[LOW], facts[HIGH]
    named = low is not None or high is not None
    low, high = 0.0 if low is None else low, 1.0 if high is None else high
    if not low < high:
        raise ValueError(f"low={low:g} must be less than high={high:g}")
    if named and not (low - _SLACK <= least and most <= high + _SLACK):
        raise ValueError(
            f"values range from {least:g} to {most:g}, outside of low={low:g} and high={high:g}; "
            "without --low and --high rewards of any range are judged"
        )
    if not named and (least < -_SLACK or most > 1 + _SLACK):
        given = "the given counts are ignored: " if samples else ""
        return Counts(
            None, None, 0.0, 1.0, False,
            f"{given}values from {least:g} to {most:g} are not rates, so their noise is measured",
        )  # fmt: skip
    rates, allowed = (values - low) / (high - low), _rounding(values) / (high - low)
    measured = "the noise is measured between neighbouring values"
    if len(parts) > 1:
        return Counts(
            None, None, low, high, True,
            f"the log has {len(parts)} other rewards ({', '.join(parts[:4])}), so the metric may "
            f"be their sum and not a mean of 0 and 1: {measured}; --column judges one of them",
        )  # fmt: skip
    if facts.get(LEVELS, 2) > 2:
        return Counts(
            None, None, low, high, True,
            f"samples have {facts[LEVELS]:g} different rewards, not two: {measured}",
        )  # fmt: skip
    if samples is not None:
        if fits(rates, allowed, samples):
            return Counts(samples, problems, low, high, True, "as given")
        return Counts(
            None, None, low, high, True,
            f"values are not multiples of 1/{samples}, so they are not means of {samples} zeros "
            f"and ones as given: {measured}",
        )  # fmt: skip
    said, their_problems, source = _said(facts)
    found = granularity(rates, allowed)
    if said is not None and fits(rates, allowed, said):
        return Counts(said, problems or their_problems, low, high, True, source)
    if found is not None:
        unlike = f"; the values do not fit the {said} that {source} would give" if said else ""
        shared = problems if problems and found % problems == 0 else None
        return Counts(
            found, shared, low, high, True, f"every value is a multiple of 1/{found}{unlike}"
        )
    if said is not None:
        return Counts(
            None, None, low, high, True,
            f"values are not multiples of 1/{said}, which {source} would give: {measured}",
        )  # fmt: skip
    return Counts(
        None, None, low, high, True,
        f"neither the log nor the values show how many samples a value averages: {measured}",
    )  # fmt: skip


def granularity(rates: np.ndarray, allowed: np.ndarray) -> int | None:
    """Return the smallest N that makes every rate a multiple of 1/N; None if it may be chance.

    Args:
      rates: float64 [n].
      allowed: float64 [n], largest rounding error of each logged rate.
    """
    distinct, index = np.unique(rates, return_index=True)
    if len(distinct) < 3:
        return None
    off, counts = allowed[index], np.arange(1, _MOST)
    for x, tolerance in zip(distinct, off, strict=True):
        product = counts * x
        counts = counts[np.abs(product - np.round(product)) <= counts * tolerance + 1e-7]
        if not len(counts):
            return None
    smallest = int(counts[0])
    inner = (distinct > _SLACK) & (distinct < 1 - _SLACK)
    chance = 2 * smallest * off[inner] + 2e-7
    if not inner.any() or chance.max() > _COARSE:
        return None
    if np.log(np.maximum(chance, 1e-12)).sum() + math.log(smallest) > math.log(_ACCIDENT):
        return None
    return smallest


def fits(rates: np.ndarray, allowed: np.ndarray, samples: int) -> bool:
    """Return whether every rate is a multiple of 1/samples, ignoring those rounded too coarsely."""
    seen = 2 * samples * allowed < _COARSE
    product = rates[seen] * samples
    return bool((np.abs(product - np.round(product)) <= samples * allowed[seen] + 1e-6).all())


def _rounding(values: np.ndarray) -> np.ndarray:
    """Return the largest rounding error of each logged value: half a unit of its last digit."""
    texts = [np.format_float_positional(v, trim="-") for v in np.unique(values)]
    decimals = max((len(t.partition(".")[2]) for t in texts), default=0)
    digits = max((len(t.replace(".", "").strip("-").strip("0")) for t in texts), default=0)
    size = np.maximum(np.abs(values), 1e-12)
    if digits <= 4 and decimals > 4:  # "%.4g", as TRL prints
        return 0.5 * 10.0 ** (np.floor(np.log10(size)) - 3)
    if decimals <= 8:
        return np.full(len(values), 0.5 * 10.0**-decimals) * (1 + 1e-6)
    return size * _FLOAT32


def _said(facts: Mapping[str, float]) -> tuple[int | None, int | None, str]:
    """Return the samples and problems per step that the log states, and a clause naming where."""
    if SAMPLES in facts:
        problems = facts.get(PROBLEMS)
        samples = int(facts[SAMPLES])
        if problems is not None and samples % int(problems):
            problems = None
        return samples, None if problems is None else int(problems), "the dump's own count"
    for name in EPISODES:
        if name in facts:
            return int(facts[name]), None, f"the log's {name}"
    batch = next((name for name in _ending(facts, BATCH)), None)
    group = next((name for name in _ending(facts, GROUP)), None)
    if batch is None or group is None or facts[batch] < 1 or facts[group] < 1:
        return None, None, ""
    problems, each = int(facts[batch]), int(facts[group])
    return problems * each, problems, f"the log's {batch} {problems} and {group} {each}"


def _ending(facts: Mapping[str, float], wanted: Sequence[str]) -> list[str]:
    """Find settings by name, in any section."""
    return [
        name
        for own in wanted
        for name in facts
        if name == own or name.endswith((f"/{own}", f".{own}"))
    ]


def _count(value: float | None, name: str) -> int | None:
    if value is None:
        return None
    if not math.isfinite(value) or value != round(value) or value < 1:
        raise ValueError(f"{name}={value:g} must be a whole number of at least 1")
    return int(value)
