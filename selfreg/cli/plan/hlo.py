"""Read the collectives and the attention kernel of a compiled program from its HLO text."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
CUDNN = "__cudnn$fmha"

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_RESULT = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
# The forms are {{0,1},{2,3}}, [2,2]<=[4], and mesh['a'=2,'b'=2] {'b'}.
_GROUPS = re.compile(
    r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\]<=|mesh\[(.*?)\](?: device_ids=\S+)? \{(.*?)\})"
)


class Moved(NamedTuple):
    """Bytes that ring collectives send from each device, by the kind of collective.

    Attributes:
      once: Bytes that do not depend on the data.
      a_turn: Bytes in each iteration of a loop whose length depends on the data. If there are
        several such loops, it is the one that sends most.
    """

    once: Mapping[str, float]
    a_turn: Mapping[str, float]

    def over(self, turns: int) -> dict[str, float]:
        """Return the bytes by kind for a given number of iterations."""
        kinds = [kind for kind in KINDS if kind in self.once or kind in self.a_turn]
        return {k: self.once.get(k, 0.0) + turns * self.a_turn.get(k, 0.0) for k in kinds}


@dataclass(frozen=True, slots=True)
class _Computation:
    lines: list[str]
    entry: bool


def attention_kernel(text: str) -> str:
    """Return `cudnn` if the program calls cuDNN's attention, else `plain`."""
    return "cudnn" if CUDNN in text else "plain"


def moved(text: str, devices: int) -> Moved:
    """Count the bytes that a program's collectives send. A loop of known length counts each turn.

    In a ring of n devices, each device sends (n - 1) / n of an array that is gathered or scattered,
    and twice that of an array that is all-reduced.

    Args:
      text: The compiled module, from `jax.stages.Compiled.as_text`.
      devices: The number of devices. A collective between all devices may not state its group.
    """
    computations = dict(_computations(text))
    turns: list[dict[str, float]] = []

    def of(name: str, times: int) -> dict[str, float]:
        total: dict[str, float] = defaultdict(float)
        for line in computations[name].lines:
            if found := _RESULT.search(line):
                total[found[2]] += times * _sent(found, line, devices)
                continue
            loop = " while(" in line
            known = _TRIPS.search(line)
            for called in _CALLED.findall(line):
                if called not in computations:
                    continue
                if loop and not known:
                    turns.append(of(called, times))
                    continue
                for kind, size in of(called, times * int(known[1]) if known else times).items():
                    total[kind] += size
        return dict(total)

    entry = next(name for name, each in computations.items() if each.entry)
    once = of(entry, 1)
    return Moved(once, max(turns, key=lambda each: sum(each.values()), default={}))


def _computations(text: str) -> Iterator[tuple[str, _Computation]]:
    name, current = "", _Computation([], False)
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            name, current = found[2], _Computation([], bool(found[1]))
        elif line == "}" and name:
            yield name, current
            name = ""
        else:
            current.lines.append(line)


def _sent(found: re.Match[str], line: str, devices: int) -> float:
    """Return the bytes that each device of a group sends for one collective."""
    result, kind, started = found[1], found[2], bool(found[3])
    size = float(sum(_size(*array) for array in _ARRAY.findall(result)))
    n = _group(line, devices)
    # The result of an asynchronous (-start) gather, scatter or permutation includes its operands.
    if kind == "all-gather":
        return size * (n - 1) / (n + 1 if started else n)
    if kind == "reduce-scatter":
        return size * (n - 1) / (n + 1) if started else size * (n - 1)
    if kind == "all-reduce":
        return 2 * size * (n - 1) / n
    if kind == "all-to-all":
        return size * (n - 1) / n
    return size / 2 if started else size


def _size(dtype: str, axes: str) -> int:
    count = math.prod(int(axis) for axis in axes.split(",") if axis)
    return count * BYTES.get(dtype, 0)


def _group(line: str, devices: int) -> int:
    found = _GROUPS.search(line)
    if not found:
        return devices
    listed, size, sizes, names = found.groups()
    if listed:
        return listed.count(",") + 1
    if size:
        return int(size)
    axes = dict(re.findall(r"'(\w+)'=(\d+)", sizes))
    return math.prod(int(axes[name]) for name in re.findall(r"'(\w+)'", names))
