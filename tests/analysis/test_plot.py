import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from selfreg.analysis.capabilities import Measured
from selfreg.analysis.charts import (
    OUTCOME_COLOURS,
    capability_figure,
    outcome_bars,
    outcome_figure,
    variety,
)
from selfreg.analysis.decisions import Decided
from selfreg.analysis.load import load_run
from selfreg.analysis.nullmodel import Reading, compare
from selfreg.analysis.plot import (
    bounded_error,
    campaign_starts,
    image,
    null_bands,
    trajectory_figure,
)
from selfreg.analysis.theme import DARK, LIGHT
from selfreg.run.records import Outcome, PanelScore, Plan

LEVELS = [[0.3, 0.5, 0.1, 0.0], [0.5, 0.4, 0.3]]


@pytest.fixture
def run(write_run):
    return load_run(write_run("es", LEVELS, condition="ES"))


def lines(figure, colour):
    """Return x and y of the lines of one colour in the top axes."""
    found = [line for line in figure.axes[0].lines if line.get_color() == colour]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found]


def test_the_panel_is_drawn_against_cumulative_updates(run):
    drawn = lines(trajectory_figure([run]), LIGHT.lines[0])
    assert campaign_starts(run) == [0, 3]
    assert [0, 1, 2, 3] in [x for x, _ in drawn]
    assert [3, 4, 5] in [x for x, _ in drawn]
    assert ([1, 3], pytest.approx([0.5, 0.5])) in drawn  # dotted, to the next campaign


def test_more_conditions_than_colours_have_axes_of_their_own(write_run):
    runs = [load_run(write_run(f"c{i}", LEVELS, name=f"wave{i}")) for i in range(7)]
    runs.append(load_run(write_run("again", LEVELS, name="wave0", seed=11)))
    figure = trajectory_figure(runs)
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == ["wave0/A0, 2 seeds", *(f"wave{i}/A0, seed 7" for i in range(1, 7))]
    assert ([0, 1, 2, 3], pytest.approx(LEVELS[0])) in lines(figure, LIGHT.lines[0])
    assert not figure.legends


def test_two_conditions_have_two_colours_and_a_legend(run, write_run):
    other = load_run(write_run("a0", LEVELS))
    figure = trajectory_figure([run, other])
    assert lines(figure, LIGHT.lines[0])
    assert lines(figure, LIGHT.lines[1])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["A0, seed 7", "ES, seed 7"]


def test_several_seeds_are_drawn_as_thin_lines(write_run):
    runs = [load_run(write_run(f"a{seed}", LEVELS, seed=seed)) for seed in (7, 11)]
    figure = trajectory_figure(runs)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A0, 2 seeds"]
    assert all(line.get_linewidth() < 1 for line in figure.axes[0].lines)


def test_every_label_lies_inside_and_none_overlap(write_run):
    levels = [[0.3, 0.5, 0.1, 0.0]] * 10
    figure = trajectory_figure([load_run(write_run("long", levels))])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [figure.axes[0]._left_title, *figure.axes[0].texts, *figure.legends[0].get_texts()]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    width, height = canvas.get_width_height()
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"finished": 0},
        {"finished": 1},
        {"panel": False, "control_metric": "pass_rate"},
        {"completions": False},
        {"levels": [[0.0, 0.0]]},
        {"levels": [[0.3]], "panel": True},
        {"levels": [[0.3, 0.3]], "finished": 0},
    ],
)
def test_any_run_can_be_drawn(write_run, kwargs):
    run = load_run(write_run("run", **{"levels": LEVELS, **kwargs}))
    for runs in ([run], [run, run]):
        assert image(trajectory_figure(runs, DARK), "png").startswith(b"\x89PNG")


def test_outcome_shares_add_up(run):
    bars = outcome_bars(run)
    assert [bar.update for bar in bars] == [0, 1, 2, 3, 4]
    for bar in bars:
        assert sum(bar.shares.values()) == pytest.approx(1)
    assert bars[0].shares[Outcome.PASSED] == pytest.approx(5 / 16)
    assert set(OUTCOME_COLOURS) == set(Outcome)
    assert ET.fromstring(image(outcome_figure(bars), "svg")).tag.endswith("svg")


def test_bars_of_a_long_run_are_means_over_a_few_steps(write_run):
    run = load_run(write_run("long", [[0.5] * 100 + [0.0] * 101], completions=False))
    bars = outcome_bars(run)
    assert 40 <= len(bars) <= 60
    assert sum(bar.steps for bar in bars) == 200
    assert bars[0].shares[Outcome.PASSED] == pytest.approx(0.5)


def test_the_null_band_holds_95_percent_of_a_constant_policy(run):
    # Half of the groups passed completely and half not at all, so the rates are near 0 and 1. The
    # band of a single reading is then [0, 1], and so is that of a mean of three: p(1, 1, 1) = 1/8.
    pass_rate = np.array([1.0, 0.0, 1.0])
    half = compare(pass_rate, np.array([16, 0, 16, 0]), Reading(3, 16))
    still = compare(pass_rate, np.array([8] * 40), Reading(3, 16))
    first, second = null_bands(run, [half, None]), null_bands(run, [still, None])
    (wide,), (narrow,) = first, second
    assert wide.updates.tolist() == [0, 1, 2]
    np.testing.assert_allclose(wide.low, 0, atol=0.01)
    np.testing.assert_allclose(wide.high, 1, atol=0.01)
    # Rates of 0.5: sd of the mean of n readings of 16 is 0.125 / sqrt(n).
    expected = 0.5 + 1.96 * 0.125 / np.sqrt([1, 2, 3])
    np.testing.assert_allclose(narrow.high, expected, atol=0.03)
    np.testing.assert_allclose(narrow.low, 1 - expected, atol=0.03)


def test_the_band_is_drawn_for_each_campaign_that_has_one(run):
    null = compare(np.array([1.0, 0.0, 1.0]), np.array([8] * 40), Reading(3, 16))
    figures = [trajectory_figure([run], bands=null_bands(run, nulls)) for nulls in ([], [null])]
    bare, banded = (len(figure.axes[0].collections) for figure in figures)
    assert banded == bare + 1
    labels = [text.get_text() for text in figures[1].legends[0].get_texts()]
    assert "noise alone, 95%" in labels


def test_decisions_share_the_axis_of_updates(run):
    plan = Plan(None, 9, 1e-3, 0.0, action="reuse")
    pilot = Plan(None, 10, 1e-4, 0.0, action="pilot")
    decided = [Decided(0, plan, None, 3, (2,), True), Decided(1, pilot, None, 2, (), True)]
    figure = trajectory_figure([run], decided=decided)
    strip = figure.axes[1]
    assert [(bar.get_x(), bar.get_width()) for bar in strip.patches] == [(0, 3), (3, 2)]
    assert [text.get_text() for text in strip.texts] == ["9", "10"]
    marks = {line.get_marker(): list(line.get_xdata()) for line in strip.lines[:2]}
    assert marks == {"^": [2], "X": [3]}
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"plan: reuse", "plan: pilot", "back to the peak", "stopped early"} <= labels
    assert image(figure, "png").startswith(b"\x89PNG")


def test_variety_counts_texts_and_solutions(run):
    # All training programs of a written run are equal, so a step with a pass has one solution.
    first = variety(run)[0]
    assert first.updates.tolist() == [0, 1, 2]
    np.testing.assert_allclose(first.solutions, [1 / 16, 1 / 16, 1 / 16])
    assert np.isnan(first.distinct).all()
    figure = outcome_figure(outcome_bars(run), variety(run))
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "distinct solutions"


def test_capabilities_are_drawn_with_their_errors(run):
    def scores(rate):
        return {
            name: PanelScore(("a", "b"), np.array([rate, other]), 4)
            for name, other in (("main", 1.0), ("cpp", 0.0))
        }

    policies = [
        Measured(0, "start", 0, 0, scores(0.0), None),
        Measured(0, "peak and end", 3, 3, scores(1.0), 0.5),
    ]
    figure = capability_figure(policies)
    drawn = {c.get_label(): c.lines[0].get_ydata() for c in figure.axes[0].containers}
    assert drawn["main"] == pytest.approx([0.5, 1.0])
    assert drawn["cpp"] == pytest.approx([0.0, 0.5])
    error = figure.axes[0].containers[0].lines[2][0].get_segments()[0]
    assert error[:, 1] == pytest.approx([0, 1])  # 0.5 ± 1.96 x 0.5 ends where pass@1 does


def test_error_bars_end_where_pass_at_1_does():
    # Means 0.5, 0.9 and 0; standard errors 0.1 sqrt(2) / sqrt(2), the same, and 0.
    rates = ([0.4, 0.6], [0.8, 1.0], [0.0, 0.0])
    scores = [PanelScore(("a", "b"), np.array(rate), 5) for rate in rates]
    np.testing.assert_allclose(bounded_error(scores), [[0.196, 0.196, 0], [0.196, 0.1, 0]])


def test_equal_figures_are_equal_files(run):
    first, second = (image(trajectory_figure([run]), "svg") for _ in range(2))
    assert first == second


def test_drawing_leaves_no_setting_behind(run):
    before = dict(matplotlib.rcParams)
    image(trajectory_figure([run], DARK), "png")
    assert dict(matplotlib.rcParams) == before


def test_reading_runs_needs_neither_jax_nor_pyplot():
    code = (
        "import sys, selfreg.analysis.__main__; "
        "sys.exit(str({'jax', 'flax', 'torch', 'matplotlib.pyplot'} & sys.modules.keys() or ''))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == ""
