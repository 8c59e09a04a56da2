import base64
import json
import re
import zlib

import numpy as np
import pytest

from selfreg.analysis.browse import FIELDS, select
from selfreg.analysis.load import load_run
from selfreg.analysis.page import visible
from tests.analysis.browsing import keep


def unpack(payload):
    """Return every completion of a payload as (campaign, step, stream, fields)."""
    strings, found = [], []
    for line in zlib.decompress(base64.b64decode(payload)).decode().splitlines():
        campaign, step, stream, fresh, rows = json.loads(line)
        strings += fresh
        for row in rows:
            texts = [strings[code] for code in row]
            found.append((campaign, step, stream, dict(zip((*FIELDS, "spec"), texts, strict=True))))
    return found


def noise(rng, length=300):
    """Return a program that hardly compresses."""
    return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), length))


@pytest.fixture
def large(write_run):
    """Write a run of 20 steps with a panel of 6 problems every 4 steps, 2 or 8 samples each."""
    folder = write_run("run", [[0.1] * 8 + [0.5] + [0.3] * 12])  # the peak is at step 8
    rng = np.random.default_rng(0)
    for step in range(21):
        if step < 20:
            keep(folder, step, "train", {f"t/{step % 3}": [noise(rng) for _ in range(8)]})
        if step % 4 == 0:
            panel = {f"p/{i}": [noise(rng) for _ in range(2)] for i in range(6)}
            keep(folder, step, "panel", panel)
    for step in (0, 8, 20):  # replaces the completions that write_run stored
        (folder / f"completions/campaign_00_step_{step:04d}_report.parquet").unlink()
    return load_run(folder)


def test_everything_is_on_the_page_where_it_fits(large):
    chosen = select(large, 1_000_000)
    assert chosen.shown == chosen.kept == {"train": 160, "panel": 72}
    found = unpack(chosen.payload)
    assert len(found) == 232
    keys = {(c, s, stream, row["problem_id"], row["sample"]) for c, s, stream, row in found}
    assert len(keys) == 232
    assert (0, 5, "train", "t/2", "7") in keys
    row = next(row for _, _, _, row in found)
    assert (row["outcome"], row["grade_detail"], row["spec"]) == ("failed", "line 1", "solve p/0")
    assert row["text"] == ""  # the completion equals the program, and is not stored twice


@pytest.mark.parametrize("budget", [1_000, 5_000, 20_000, 50_000])
def test_the_budget_is_kept_and_the_count_is_true(large, budget):
    chosen = select(large, budget)
    assert len(chosen.payload) <= budget
    found = unpack(chosen.payload) if chosen.payload else []
    for stream in ("train", "panel"):
        count = sum(own == stream for _, _, own, _ in found)
        assert chosen.shown.get(stream, 0) == count
    assert sum(chosen.shown.values()) < sum(chosen.kept.values())


def test_a_small_budget_goes_to_the_most_informative_parts(large):
    # One sample 0 of the panel is 6 x 300 characters of 36 letters: 6 x 300 x 5.17 / 6 in base64.
    found = unpack(select(large, 7_000).payload)
    assert {(stream, step, row["sample"]) for _, step, stream, row in found} >= {
        ("panel", 0, "0"), ("panel", 8, "0"), ("panel", 20, "0"),
    }  # fmt: skip
    assert all(row["sample"] == "0" for _, _, stream, row in found if stream == "panel")
    # Then training groups follow, from steps spread over the whole run.
    found = unpack(select(large, 20_000).payload)
    steps = sorted({step for _, step, stream, _ in found if stream == "train"})
    assert 5 <= len(steps) < 20
    assert max(np.diff([-1, *steps, 20])) <= 5
    assert {row["sample"] for _, _, stream, row in found if stream == "train"} == set("0123")


def test_nothing_kept_nothing_packed(write_run):
    chosen = select(load_run(write_run(completions=False)), 1_000_000)
    assert (chosen.payload, chosen.kept) == ("", {})


def test_a_payload_holds_no_markup_whatever_the_programs_hold(write_run, hostile):
    run = load_run(write_run())
    keep(run.folder, 1, "panel", {"</script><b>": [hostile, "x" * 100_000, "</script>" * 50]})
    payload = select(run, 1_000_000).payload
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", payload)
    programs = [row["program"] for _, _, stream, row in unpack(payload) if stream == "panel"]
    assert programs[0] == hostile.replace("\x1b", "<U+001B>").replace("\x00", "<U+0000>")
    assert programs[1] == (
        "x" * 3_000 + "\n[... 94,000 characters left out of this page ...]\n" + "x" * 3_000
    )
    assert programs[2] == "</script>" * 50


def test_invisible_characters_are_spelled_out():
    assert visible("if a:\n\tb\r\x00\u202e\u200b é ✓") == (
        "if a:\n\tb<U+000D><U+0000><U+202E><U+200B> é ✓"
    )
