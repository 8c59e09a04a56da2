"""What one value is the mean of: how many completions of how many problems, and whether of 0 and 1.

Taken, in this order, from the flags, from what the log says, and from the values themselves: means
of N zeros and ones are multiples of 1/N. Where none of it holds, noise has to be measured.
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
# Where values are rounded to more than this share of 1/N, they fit most N.
_COARSE = 0.5
_ACCIDENT = 1e-3


@dataclass(frozen=True, slots=True)
class Counts:
    """What the values are means of.

    Attributes:
      samples: Completions behind one value; None: not known, or they are no zeros and ones.
      problems: Distinct problems among them; None: not known.
      low: What is mapped to 0.
      high: What is mapped to 1.
      rate: Whether values are judged on the scale from low to high; else in their own unit.
      why: Where this comes from, a clause.
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
    """Decide what finite values are means of.

    Args:
      values: float64 [n], as logged.
      samples: Completions behind one value, where the caller knows.
      problems: Problems among them, likewise.
      low: The reward of a fail; None: 0, where the values lie between 0 and 1.
      high: That of a pass, likewise.
      facts: Settings that the log states.
      parts: Rewards that the metric is the sum of.

    Raises:
      ValueError: The counts are none, or a value lies outside of low and high.
    """
    facts = facts or {}
    samples, problems = _count(samples, "samples_per_step"), _count(problems, "problems_per_step")
    if samples is not None and problems is not None and (problems > samples or samples % problems):
        raise ValueError(
            f"samples_per_step={samples}, problems_per_step={problems}: the same number of "
            "completions of each problem is needed"
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
            f"values go from {least:g} to {most:g}, outside of low={low:g} and high={high:g}; "
            "without --low and --high rewards of any range are judged"
        )
    if not named and (least < -_SLACK or most > 1 + _SLACK):
        given = "the counts given do not matter: " if samples else ""
        return Counts(
            None, None, 0.0, 1.0, False,
            f"{given}values from {least:g} to {most:g} are no rates, and their noise is measured",
        )  # fmt: skip
    rates, allowed = (values - low) / (high - low), _rounding(values) / (high - low)
    measured = "noise is measured between neighbouring values"
    if len(parts) > 1:
        return Counts(
            None, None, low, high, True,
            f"the log has {len(parts)} rewards beside it ({', '.join(parts[:4])}), of which it "
            f"may be the sum, and then no mean of 0 and 1: {measured}; --column judges one",
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
            f"values are no multiples of 1/{samples}, so that they are no means of {samples} zeros "
            f"and ones as given: {measured}",
        )  # fmt: skip
    said, their_problems, source = _said(facts)
    found = granularity(rates, allowed)
    if said is not None and fits(rates, allowed, said):
        return Counts(said, problems or their_problems, low, high, True, source)
    if found is not None:
        unlike = f"; {source}, makes {said}, which the values do not fit" if said else ""
        shared = problems if problems and found % problems == 0 else None
        return Counts(
            found, shared, low, high, True, f"every value is a multiple of 1/{found}{unlike}"
        )
    if said is not None:
        return Counts(
            None, None, low, high, True,
            f"values are no multiples of 1/{said}, which {source}, would make: {measured}",
        )  # fmt: skip
    return Counts(
        None, None, low, high, True,
        f"neither the log nor the values tell how many samples one is the mean of: {measured}",
    )  # fmt: skip


def granularity(rates: np.ndarray, allowed: np.ndarray) -> int | None:
    """The smallest N that makes every rate a multiple of 1/N, if that can be no accident.

    Args:
      rates: float64 [n].
      allowed: float64 [n], how far each may be off, as it was rounded when it was logged.
    """
    distinct, index = np.unique(rates, return_index=True)
    if len(distinct) < 3:
        return None
    off, counts = allowed[index], np.arange(1, _MOST)
    # The coarsest values rule out most.
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
    """Whether every rate is a multiple of 1/samples, as far as its rounding lets that be seen."""
    seen = 2 * samples * allowed < _COARSE
    product = rates[seen] * samples
    return bool((np.abs(product - np.round(product)) <= samples * allowed[seen] + 1e-6).all())


def _rounding(values: np.ndarray) -> np.ndarray:
    """How far each logged value may be from the true one: half of its last digit."""
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
    """Samples and problems a step as the log has them, and a clause on where."""
    if SAMPLES in facts:
        problems = facts.get(PROBLEMS)
        samples = int(facts[SAMPLES])
        if problems is not None and samples % int(problems):
            problems = None
        return samples, None if problems is None else int(problems), "counted in the samples"
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
    """Settings by those names, whatever sections they stand in."""
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
        raise ValueError(f"{name}={value:g}: it must be a whole number from 1 on")
    return int(value)
