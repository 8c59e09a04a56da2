"""Compare several runs, paired by the seeds that their names contain."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from selfreg.integrations.audit.judge import Audit
from selfreg.integrations.audit.logs import Log

# Matches the seed of "grpo_seed3", "grpo-s3" or "grpo/seed=3"; the rest is the condition.
_SEED = re.compile(
    r"(?i)(?:^|[/_\-. =])(?:seed|rng)[ _\-=]?(\d+)(?=$|[/_\-. ])|[/_\-. ]s(\d+)(?=$|[/_\-. ])"
)
_ENDINGS = re.compile(
    r"(?i)(?:\.(?:jsonl?|ndjson|csv|tsv|log|txt|out|parquet|wandb|gz|zst|bz2|xz))+$"
)
# File names that do not identify a run; its folder does.
_COMMON = re.compile(
    r"(?i)^(?:trainer_state\.json|metrics\.jsonl?|logging\.jsonl|trainer_log\.jsonl|progress\.\w+|"
    r"train\.log|log\.txt|output\.log|completions\.\w+|history\.\w+)$"
)


class Pair(NamedTuple):
    """Two conditions compared over the seeds that both have.

    Attributes:
      name: The condition of interest (the minuend).
      baseline: The condition that is subtracted.
      seeds: The shared seeds, ascending.
      ends: Difference of the ends, for each seed.
      drops: Difference of the drops from peak to end, for each seed.
    """

    name: str
    baseline: str
    seeds: tuple[str, ...]
    ends: tuple[float, ...]
    drops: tuple[float, ...]


def condition(log: Log) -> tuple[str, str | None]:
    """Split a run's name into condition and seed; the seed is None if the name has none."""
    file = log.file
    place = file.parent if _COMMON.match(file.name) and file.parent.name else file
    own = _ENDINGS.sub("", place.name)
    # Try the run's name, then the file's or its folder's, then the parent folder's.
    for text in (log.name, own, f"{place.parent.name}/{own}"):
        if (found := _SEED.search(f"/{text}")) is not None:
            whole = f"/{text}"
            rest = f"{whole[: found.start()]}/{whole[found.end() :]}".strip("/_-. =")
            if rest:
                return re.sub(r"/{2,}", "/", rest), found[1] or found[2]
    return f"{own} {log.name}".strip(), None


def pairs(runs: Sequence[tuple[Log, Audit]]) -> list[Pair]:
    """Pair every condition with the first one, over shared seeds."""
    by_condition: dict[str, dict[str, Audit]] = {}
    for log, audit in runs:
        name, seed = condition(log)
        if seed is not None:
            by_condition.setdefault(name, {})[seed] = audit
    if len(by_condition) < 2:
        return []
    (baseline, base), *others = by_condition.items()
    found = []
    for name, own in others:
        seeds = tuple(sorted(base.keys() & own.keys(), key=int))
        if seeds:
            found.append(
                Pair(
                    name, baseline, seeds,
                    tuple(own[s].shape.end - base[s].shape.end for s in seeds),
                    tuple(own[s].gap.observed - base[s].gap.observed for s in seeds),
                )
            )  # fmt: skip
    return found


def describe(pair: Pair) -> str:
    """Describe the differences over the shared seeds in a sentence."""
    seeds = f"{len(pair.seeds)} shared seed{'s' * (len(pair.seeds) > 1)} ({', '.join(pair.seeds)})"
    told = [
        f"{what} {_interval(values)}" for what, values in (("end", pair.ends), ("drop", pair.drops))
    ]
    return f"{pair.name} - {pair.baseline}, paired over {seeds}: {'; '.join(told)}."


def _interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:+.3g}"
    from selfreg.analysis.stats import seed_difference

    found = seed_difference(values)
    interval = f"{found.mean:+.3g} [{found.t[0]:+.3g}, {found.t[1]:+.3g}]"
    return f"{interval}, sign-flip p = {found.sign_flip_p:.2g}"
