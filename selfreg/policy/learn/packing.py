"""Laying the completions of a batch side by side in rows of few widths. Pure NumPy.

A row holds completions of one prompt and has one of a few fixed widths: few programs are compiled,
and little is computed for nothing. Where a token lies is data: it changes no result.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise

import numpy as np

from selfreg.algorithms.parts.batch import Batch

EMPTY = -1
TOKENS_AT_ONCE = 256
# Above it the products of layers keep all cores busy, and a second gradient is 128 MiB or more.
HALVED_PARAMETERS = 2**25
Row = tuple[int, list[int]]  # its width, and the completions in it


@dataclass(frozen=True, slots=True)
class Packing:
    """The rows that an update is compiled for.

    Attributes:
      row_tokens: The widths of rows, each with a loop of its own in the compiled program. The
        widest holds the longest completion that there can be.
      microbatch_rows: Rows of one width whose gradients are computed at once.
    """

    row_tokens: tuple[int, ...]
    microbatch_rows: int


def row_widths(longest: int) -> tuple[int, ...]:
    """Widths that leave little empty, whatever the lengths: 2/3, 1 and 3/2 of the longest.

    Rows of one width leave a quarter empty where a prompt's completions are all a bit longer than
    half of it, as those of one problem can well be.
    """
    return tuple(dict.fromkeys((-(-2 * longest // 3), longest, -(-3 * longest // 2))))


def make_packing(
    row_tokens: Sequence[int], microbatch_rows: int, longest: int, completions: int, devices: int
) -> Packing:
    """The rows of an update: of a few widths, and some at once, where the config leaves it open.

    A device takes two rows at once where two of the longest completions are no more than 256
    tokens, and else one: a short row alone is too little to compute at a time, and the more they
    are, the emptier is the last microbatch.

    Args:
      row_tokens: As config.learn.row_tokens.
      microbatch_rows: As config.learn.microbatch_rows.
      longest: The most tokens that a completion may have.
      completions: In a batch.
      devices: That split the rows.

    Raises:
      ValueError: The devices cannot split a microbatch evenly, or the batch has too many tokens.
    """
    two = 2 * longest <= TOKENS_AT_ONCE and 2 * devices <= completions
    if longest * completions > np.iinfo(np.int32).max:
        raise ValueError(
            f"{completions} completions of up to {longest} tokens are more than the 2,147,483,647 "
            "tokens that a batch's slots can name: lower config.rollout.problems_per_step, "
            "group_size or max_new_tokens"
        )
    rows = microbatch_rows or devices * (1 + two)
    if rows % devices:
        raise ValueError(
            f"config.learn.microbatch_rows={rows} must be a multiple of {devices}: so many devices "
            "split the rows (config.mesh data x fsdp)"
        )
    return Packing(tuple(row_tokens) or row_widths(longest), rows)


def pack(lengths: np.ndarray, max_new_tokens: int, packing: Packing) -> np.ndarray:
    """Put every completion into a row.

    Rows are filled one after the other (Gupta and Ho 1999, the minimum bin slack heuristic): the
    longest completion that waits is joined by those that leave the least of the row empty, of
    whatever width the row then is. A width's last, unfilled microbatch can cost more than the
    width saves: so every choice of widths is tried, row by row and a microbatch at a time, and rows
    that fill no microbatch go to a wider one with room.

    Args:
      lengths: int [P, G], tokens of each completion.
      max_new_tokens: T, the most that a completion may have.
      packing: The rows that there are.

    Returns:
      int32 [widths, R, widest]: b * T + t where the slot is token t of completion b, EMPTY where it
      is padding. Width w has the first w columns of its rows, and its rows that are in use come
      first. R is that of the worst case: the shape does not depend on the lengths.

    Raises:
      ValueError: A completion fits in no row.
    """
    widths, at_once = packing.row_tokens, packing.microbatch_rows
    if lengths.max() > max(widths):
        raise ValueError(
            f"a completion of {lengths.max()} tokens fits in no row of "
            f"config.learn.row_tokens={widths}: the widest must hold rollout.max_new_tokens"
        )

    packed = (
        _widened(_rows(lengths, chosen, together), chosen, at_once)
        for chosen in _choices(lengths, widths)
        for together in dict.fromkeys((1, at_once))
    )
    best = min(packed, key=lambda rows: _computed([width for width, _ in rows], at_once))
    slots = np.full(slots_shape(lengths.size, packing), EMPTY)
    filled = [0] * len(widths)
    for width, completions in best:
        kind = widths.index(width)
        tokens = [b * max_new_tokens + np.arange(lengths.flat[b]) for b in completions]
        row = np.concatenate(tokens)
        slots[kind, filled[kind], : len(row)] = row
        filled[kind] += 1
    return slots.astype(np.int32)


def slots_shape(completions: int, packing: Packing) -> tuple[int, int, int]:
    """The shape of `slots` for so many completions, each in a row of its own in the worst case."""
    widths, at_once = packing.row_tokens, packing.microbatch_rows
    return len(widths), -(-completions // at_once) * at_once, max(widths)


def in_halves(platform: str, devices: int, parameters: int) -> bool:
    """Whether an update learns from two halves of its rows, in a thread each.

    XLA's program for a small model keeps one CPU core busy. How many cores there are must not
    matter: sums of halves are rounded otherwise.
    """
    return platform == "cpu" and devices == 1 and parameters <= HALVED_PARAMETERS


def halve(slots: np.ndarray, packing: Packing) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of rows: each microbatch, the widest first, in the one that has fewer slots yet.

    Args:
      slots: See `pack`.
      packing: What they were packed for.

    Returns:
      Both in the shape of `slots`, and together all that it holds.
    """
    halves, held = np.full((2, *slots.shape), EMPTY, np.int32), [0, 0]
    at_once = packing.microbatch_rows
    widths = list(enumerate(packing.row_tokens))
    for kind, width in sorted(widths, key=lambda pair: -pair[1]):
        ends = [0, 0]
        for start in range(0, int((slots[kind] != EMPTY).any(axis=1).sum()), at_once):
            half = int(held[1] < held[0])
            rows = slots[kind, start : start + at_once]
            halves[half, kind, ends[half] : ends[half] + at_once] = rows
            ends[half] += at_once
            held[half] += width
    return halves[0], halves[1]


def padding_fraction(batch: Batch, packing: Packing) -> float:
    """Slots that an update computes for nothing / all that it computes, prompts included.

    A prompt's last token counts with the completions, whose first slots it is the input of.
    """
    computed = batch.prompt_ids.size + computed_slots(batch.slots, packing)
    real = np.sum(batch.prompt_lengths - 1) + np.sum(batch.slots != EMPTY)
    return float(1 - real / computed)


def computed_slots(slots: np.ndarray, packing: Packing) -> int:
    """Slots, padding included, of all microbatches that an update of these rows runs."""
    counts = (slots != EMPTY).any(axis=2).sum(axis=1).tolist()
    rows = [w for w, n in zip(packing.row_tokens, counts, strict=True) for _ in range(n)]
    return _computed(rows, packing.microbatch_rows)


def _computed(rows: Sequence[int], at_once: int) -> int:
    """Slots of the microbatches that rows of these widths need."""
    return sum(-(-count // at_once) * at_once * width for width, count in Counter(rows).items())


def _choices(lengths: np.ndarray, widths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every choice of widths of which one holds the longest completion."""
    for count in range(1, len(widths) + 1):
        for chosen in combinations(widths, count):
            if max(chosen) >= lengths.max():
                yield chosen


def _rows(lengths: np.ndarray, widths: Sequence[int], together: int) -> list[Row]:
    """The rows of every group, filled so many at a time, of the width of which they fill most."""
    rows: list[Row] = []
    for problem, group in enumerate(lengths.tolist()):
        # An empty completion has no token to learn from.
        waiting = [i for i in np.argsort(-lengths[problem], kind="stable").tolist() if group[i]]
        while waiting:
            longest = group[waiting[0]]
            tried = [(w, _filled(group, waiting, w, together)) for w in widths if w >= longest]
            width, filled = max(tried, key=lambda it: sum(group[i] for i in chain(*it[1])) / it[0])
            rows += [(width, [problem * len(group) + i for i in row]) for row in filled]
            taken = set(chain(*filled))
            waiting = [i for i in waiting if i not in taken]
    return rows


def _widened(rows: list[Row], widths: Sequence[int], at_once: int) -> list[Row]:
    """The rows, those beyond a width's last full microbatch one width up where that costs less."""
    for narrow, wide in pairwise(widths):
        those = [row for row in rows if row[0] == narrow]
        over = those[len(those) - len(those) % at_once :]
        moved = [row for row in rows if row not in over] + [(wide, row[1]) for row in over]
        before, after = ([width for width, _ in each] for each in (rows, moved))
        if _computed(after, at_once) < _computed(before, at_once):
            rows = moved
    return rows


def _filled(group: Sequence[int], waiting: list[int], width: int, rows: int) -> list[list[int]]:
    """The first completions that wait, each joined by those that leave least of its row empty."""
    filled: list[list[int]] = []
    while waiting and len(filled) < rows:
        first, *others = waiting
        left = width - group[first]
        # Bit s of sums[n] says that some of the first n others have s tokens together.
        sums = [1]
        for i in others:
            sums.append((sums[-1] | sums[-1] << group[i]) & ((2 << left) - 1))
        left = sums[-1].bit_length() - 1
        row = [first]
        for place in range(len(others), 0, -1):
            if not sums[place - 1] >> left & 1:
                row.append(others[place - 1])
                left -= group[others[place - 1]]
        filled.append(row)
        waiting = [i for i in others if i not in row]
    return filled
