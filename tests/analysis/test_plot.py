import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from selfreg.analysis.load import load_run
from selfreg.analysis.plot import (
    DARK,
    LIGHT,
    OUTCOME_COLOURS,
    campaign_starts,
    image,
    outcome_bars,
    outcome_figure,
    trajectory_figure,
)
from selfreg.records import Outcome

LEVELS = [[0.3, 0.5, 0.1, 0.0], [0.5, 0.4, 0.3]]


@pytest.fixture
def run(write_run):
    return load_run(write_run("es", LEVELS, condition="ES"))


def lines(figure, colour):
    """x and y of the lines of one colour in the top axes."""
    found = [line for line in figure.axes[0].lines if line.get_color() == colour]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found]


def test_the_panel_is_drawn_against_cumulative_updates(run):
    drawn = lines(trajectory_figure([run]), LIGHT.lines[0])
    assert campaign_starts(run) == [0, 3]
    assert [0, 1, 2, 3] in [x for x, _ in drawn]
    assert [3, 4, 5] in [x for x, _ in drawn]
    assert ([1, 3], pytest.approx([0.5, 0.5])) in drawn  # the thread from the peak to the restart


def test_two_conditions_have_two_colours_and_a_legend(run, write_run):
    other = load_run(write_run("a0", LEVELS))
    figure = trajectory_figure([run, other])
    assert lines(figure, LIGHT.lines[0])
    assert lines(figure, LIGHT.lines[1])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["A0, seed 7", "ES, seed 7"]


def test_several_seeds_are_a_thin_line_each(write_run):
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
