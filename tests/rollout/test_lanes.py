"""Lanes: every unfinished completion keeps a row, and a lane's rows have the same prompt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.policy.rollout.lanes import pack, width


@pytest.mark.parametrize(
    ("rows", "first", "group", "parts", "wanted"),
    [
        (384, 384, 16, 1, 16),
        (192, 384, 16, 1, 4),  # 48 lanes for 24 prompts
        (48, 384, 16, 1, 1),
        (16, 16, 16, 8, 2),  # one prompt on eight devices
        (190, 380, 10, 1, 2),
        (95, 380, 10, 1, 1),
        (20, 20, 1, 1, 1),
    ],
)
def test_lanes_narrow_twice_as_fast_as_batches(rows, first, group, parts, wanted):
    assert width(rows, first, group, parts) == wanted


@given(
    prompts=st.integers(1, 6), group=st.integers(1, 8), lane=st.integers(1, 4),
    spare=st.integers(-2, 3), data=st.data(),
)  # fmt: skip
def test_what_is_live_is_kept_in_lanes_of_one_prompt(prompts, group, lane, spare, data):
    completions = np.arange(prompts * group)
    # A batch that was packed before, so that some rows draw the same completion as others.
    repeats = data.draw(st.lists(st.sampled_from(completions.tolist()), max_size=5))
    held = np.array(data.draw(st.permutations([*completions.tolist(), *repeats])))
    live = np.array(data.draw(st.lists(st.sampled_from(completions.tolist()), unique=True)), int)
    needed = sum(-(-np.sum(live // group == prompt) // lane) for prompt in range(prompts))
    count = max(1, needed + spare)
    rows = pack(held, live, group, count, lane)
    if needed > count:
        assert rows is None
        return
    assert rows.shape == (count * lane,)
    drawn = held[rows]
    assert set(live) <= set(drawn)
    assert not len(live) or set(drawn) == set(live)
    assert all(len(set(own)) == 1 for own in (drawn // group).reshape(count, lane))
