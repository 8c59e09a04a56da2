"""Pack the completions of a batch side by side into rows of a few widths. Pure NumPy.

A row holds completions of one prompt and has one of a few fixed widths. So few programs are
compiled, and little computation goes to padding. A token's position in the rows is data, and does
not change any result.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise

import numpy as np

from selfreg.algorithms.parts.batch import Batch

EMPTY = -1
TOKENS_AT_ONCE = 256
# Above this size the matrix products keep all cores busy, and a second gradient takes 128 MiB or
# more.
HALVED_PARAMETERS = 2**25
Row = tuple[int, list[int]]  # the row's width, and the completions in it


@dataclass(frozen=True, slots=True)
class Packing:
    """The rows that an update is compiled for.

    Attributes:
      row_tokens: The widths of rows. Each width has its own loop in the compiled program. The
        widest row holds the longest possible completion.
      microbatch_rows: The number of rows of one width whose gradients are computed at once.
    """

    row_tokens: tuple[int, ...]
    microbatch_rows: int


def row_widths(longest: int) -> tuple[int, ...]:
    """Return widths that leave little padding for any lengths: 2/3, 1 and 3/2 of the longest.

    Rows of a single width can leave much of a row empty. A prompt's completions are often of
    similar length, and if all are slightly longer than half a row, each row holds only one.
    """
    return tuple(dict.fromkeys((-(-2 * longest // 3), longest, -(-3 * longest // 2))))


def make_packing(
    row_tokens: Sequence[int], microbatch_rows: int, longest: int, completions: int, devices: int
) -> Packing:
    """Return the packing of an update, with defaults for values that the config leaves open.

    By default, a device computes two rows at once if two of the longest completions have at most
    256 tokens together, and otherwise one. A single short row is too little work at a time, but
    more rows leave the last microbatch emptier.

    Args:
      row_tokens: As config.learn.row_tokens.
      microbatch_rows: As config.learn.microbatch_rows.
      longest: The maximum number of tokens in a completion.
      completions: The number of completions in a batch.
      devices: The number of devices that split the rows.

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
            f"config.learn.microbatch_rows={rows} must be a multiple of {devices}, the number of "
            "devices that split the rows (config.mesh data x fsdp)"
        )
    return Packing(tuple(row_tokens) or row_widths(longest), rows)


def pack(lengths: np.ndarray, max_new_tokens: int, packing: Packing) -> np.ndarray:
    """Put every completion into a row.

    Rows are filled one after another by the minimum bin slack heuristic (Gupta and Ho 1999). Each
    row starts with the longest completion left. The completions that leave the least of the row
    empty join it. The last, unfilled microbatch of a width can cost more than the width saves. So
    `pack` tries every subset of the widths, and fills rows both singly and a microbatch at a time.
    It also moves rows that do not fill a microbatch to the next width if that costs less.

    Args:
      lengths: int [P, G], the number of tokens in each completion.
      max_new_tokens: T, the maximum number of tokens in a completion.
      packing: The available rows.

    Returns:
      int32 [widths, R, widest]. A slot holds b * T + t for token t of completion b, and EMPTY for
      padding. Rows of width w use the first w columns. For each width, the rows in use come first.
      R is the worst case, so the shape does not depend on the lengths.

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
    """Return the shape of `slots`. In the worst case, each completion has a row of its own."""
    widths, at_once = packing.row_tokens, packing.microbatch_rows
    return len(widths), -(-completions // at_once) * at_once, max(widths)


def in_halves(platform: str, devices: int, parameters: int) -> bool:
    """Return whether an update splits its rows into two halves and runs each in its own thread.

    XLA's program for a small model keeps only one CPU core busy. The choice must not depend on the
    number of cores, because the sum of two halves rounds differently.
    """
    return platform == "cpu" and devices == 1 and parameters <= HALVED_PARAMETERS


def halve(slots: np.ndarray, packing: Packing) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows into two halves of similar size.

    Each microbatch, the widest first, goes to the half that has fewer slots so far.

    Args:
      slots: See `pack`.
      packing: The packing of `slots`.

    Returns:
      Two arrays in the shape of `slots`, which together hold all its tokens.
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
    """Return the fraction of an update's slots that are padding, prompts included.

    A prompt's last token counts with the completions, because it is the input of their first slots.
    """
    computed = batch.prompt_ids.size + computed_slots(batch.slots, packing)
    real = np.sum(batch.prompt_lengths - 1) + np.sum(batch.slots != EMPTY)
    return float(1 - real / computed)


def computed_slots(slots: np.ndarray, packing: Packing) -> int:
    """Return the number of slots, padding included, in all microbatches that an update runs."""
    counts = (slots != EMPTY).any(axis=2).sum(axis=1).tolist()
    rows = [w for w, n in zip(packing.row_tokens, counts, strict=True) for _ in range(n)]
    return _computed(rows, packing.microbatch_rows)


def _computed(rows: Sequence[int], at_once: int) -> int:
    """Return the number of slots in the microbatches that rows of these widths need."""
    return sum(-(-count // at_once) * at_once * width for width, count in Counter(rows).items())


def _choices(lengths: np.ndarray, widths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield every subset of the widths that can hold the longest completion."""
    for count in range(1, len(widths) + 1):
        for chosen in combinations(widths, count):
            if max(chosen) >= lengths.max():
                yield chosen


def _rows(lengths: np.ndarray, widths: Sequence[int], together: int) -> list[Row]:
    """Return the rows of every group.

    It fills `together` rows at a time, with the width that leaves the smallest fraction empty.
    """
    rows: list[Row] = []
    for problem, group in enumerate(lengths.tolist()):
        # Skip empty completions, which have no token to learn from.
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
    """Move the rows beyond a width's last full microbatch to the next width if that costs less."""
    for narrow, wide in pairwise(widths):
        those = [row for row in rows if row[0] == narrow]
        over = those[len(those) - len(those) % at_once :]
        moved = [row for row in rows if row not in over] + [(wide, row[1]) for row in over]
        before, after = ([width for width, _ in each] for each in (rows, moved))
        if _computed(after, at_once) < _computed(before, at_once):
            rows = moved
    return rows


def _filled(group: Sequence[int], waiting: list[int], width: int, rows: int) -> list[list[int]]:
    """Fill up to `rows` rows of this width.

    Each row starts with the first waiting completion. The waiting completions that leave the least
    of the row empty join it.
    """
    filled: list[list[int]] = []
    while waiting and len(filled) < rows:
        first, *others = waiting
        left = width - group[first]
        # Bit s of sums[n] is set if some subset of the first n others has s tokens in total.
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
