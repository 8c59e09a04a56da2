"""Packing: every token is placed once, rows hold one prompt, and little is padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg.algorithms.parts.batch import Batch
from selfreg.policy.learn.packing import (
    EMPTY,
    HALVED_PARAMETERS,
    Packing,
    halve,
    in_halves,
    make_packing,
    pack,
    padding_fraction,
    row_widths,
)


def test_rows_by_hand():
    # 7 + 3 and 5 + 1 + 4 fill rows of 10. The other prompt's 6 is alone in the narrow row.
    slots = pack(np.array([[7, 5, 4, 3, 1]]), 7, Packing((10,), 1))
    rows = [row[row != EMPTY].tolist() for row in slots[0]]
    assert rows == [
        [*range(7), *range(21, 24)], [*range(7, 12), 28, *range(14, 18)], [], [], []
    ]  # fmt: skip
    slots = pack(np.array([[7, 3], [6, 0]]), 7, Packing((6, 10), 1))
    assert [row[row != EMPTY].tolist() for row in slots[0]] == [[*range(14, 20)], [], [], []]
    assert slots[1, 0].tolist() == [*range(7), *range(7, 10)]
    # With two rows per microbatch, the narrow row would be alone, and the wide one has room.
    slots = pack(np.array([[7, 3], [6, 0]]), 7, Packing((6, 10), 2))
    assert np.all(slots[0] == EMPTY)
    assert slots[1, 1].tolist() == [*range(14, 20), *[EMPTY] * 4]


GROUPS = st.integers(1, 4).flatmap(
    lambda group: st.lists(
        st.lists(st.integers(1, 20), min_size=group, max_size=group), min_size=1, max_size=5
    )
)


@given(GROUPS, st.sampled_from([(20,), (12, 20), (20, 30), (5, 25, 64)]), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_token_has_one_slot_in_a_row_of_its_prompt(groups, widths, rows_at_once):
    lengths = np.array(groups)
    slots = pack(lengths, 20, Packing(widths, rows_at_once))
    assert slots.shape == pack(np.ones_like(lengths), 20, Packing(widths, rows_at_once)).shape
    assert slots.shape[1] % rows_at_once == 0
    wanted = [b * 20 + t for b, n in enumerate(lengths.flat) for t in range(n)]
    assert sorted(slots[slots != EMPTY]) == wanted
    for rows, width in zip(slots, widths, strict=True):
        assert np.all(rows[:, width:] == EMPTY)
        used = (rows != EMPTY).any(axis=1)
        assert np.all(used[:-1] >= used[1:])
        for row in rows:
            tokens = row[row != EMPTY]
            assert np.all(row[: len(tokens)] == tokens)
            assert len(set(tokens // 20 // lengths.shape[1])) <= 1
            # The tokens of a completion are adjacent and in order.
            assert np.all((np.diff(tokens) == 1) | (tokens[1:] % 20 == 0))


@given(GROUPS, st.sampled_from([(20,), (12, 20), (30, 20)]), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_halves_hold_every_microbatch_and_are_about_as_long(groups, widths, rows_at_once):
    packing = Packing(widths, rows_at_once)
    slots = pack(np.array(groups), 20, packing)
    halves = halve(slots, packing)
    computed = [0, 0]
    for kind, width in enumerate(widths):
        whole = slots[kind].reshape(-1, rows_at_once, slots.shape[2])
        found = []
        for number, half in enumerate(halves):
            assert half.shape == slots.shape
            parts = half[kind].reshape(whole.shape)
            used = (parts != EMPTY).any(axis=(1, 2))
            assert np.all(used[:-1] >= used[1:])
            found += parts[used].tolist()
            computed[number] += used.sum() * width
        wanted = whole[(whole != EMPTY).any(axis=(1, 2))].tolist()
        assert sorted(found) == sorted(wanted)
    assert abs(computed[0] - computed[1]) <= max(widths)


def test_only_a_small_model_on_one_cpu_device_learns_in_halves():
    assert in_halves("cpu", 1, HALVED_PARAMETERS)
    assert not in_halves("cpu", 1, HALVED_PARAMETERS + 1)
    assert not in_halves("cpu", 2, 1)
    assert not in_halves("gpu", 1, 1)


def test_a_completion_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"21 tokens.*row_tokens=\(12, 20\)"):
        pack(np.array([[3, 21]]), 24, Packing((12, 20), 1))


def uniform(generator, longest, size):
    return generator.integers(longest // 10 + 1, longest + 1, size)


def geometric(generator, longest, size):
    return np.minimum(generator.geometric(3 / longest, size), longest)


def alike(generator, longest, size):
    """Draw lengths of a problem's completions, which are similar to each other."""
    centers = generator.uniform(0.3, 0.8, (size[0], 1)) * longest
    return np.clip(generator.normal(centers, 0.1 * longest, size), 1, longest).astype(int)


@pytest.mark.parametrize("draw", [uniform, geometric, alike])
@pytest.mark.parametrize(
    ("problems", "longest", "prompt_width", "rows_at_once"),
    [
        (1, 96, 32, 1), (2, 96, 32, 1), (1, 96, 32, 2), (2, 96, 32, 2), (8, 1024, 256, 1),
        (8, 1024, 256, 4),
    ],
)  # fmt: skip
def test_padding_is_under_a_tenth(problems, longest, prompt_width, rows_at_once, draw):
    generator, fractions = np.random.default_rng(0), []
    packing = Packing(row_widths(longest), rows_at_once)
    for _ in range(48):
        lengths = draw(generator, longest, (problems, 16))
        prompt_lengths = generator.integers(prompt_width // 2, prompt_width + 1, problems)
        unused = np.zeros(0)
        batch = Batch(
            prompt_ids=np.zeros((problems, prompt_width)), prompt_lengths=prompt_lengths,
            completion_ids=unused, completion_mask=unused, logprobs=unused, advantages=unused,
            token_weights=unused, slots=pack(lengths, longest, packing),
        )  # fmt: skip
        real = lengths.sum() + (prompt_lengths - 1).sum()
        fractions.append(padding_fraction(batch, packing))
        computed = real / (1 - fractions[-1])
        assert computed == pytest.approx(round(computed))
    print(f"{np.mean(fractions):.3f}, at most {max(fractions):.3f}")
    assert np.mean(fractions) < 0.1


@pytest.mark.parametrize(
    ("longest", "completions", "devices", "rows"),
    [
        (128, 16, 1, 2), (129, 16, 1, 1), (8, 16, 1, 2), (1024, 16, 1, 1), (96, 16, 8, 16),
        (96, 8, 8, 8),
    ],
)  # fmt: skip
def test_a_device_takes_two_short_rows_at_once(longest, completions, devices, rows):
    packing = make_packing((), 0, longest, completions, devices)
    assert packing == Packing(row_widths(longest), rows)
    assert make_packing((longest,), 8, longest, completions, devices).microbatch_rows == 8
