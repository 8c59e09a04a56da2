import json
import subprocess
import sys

import numpy as np
import pytest

import selfreg
from selfreg.analysis.trajectory import rolling_mean
from selfreg.analysis.verdict import Finding
from selfreg.audit import judge, read_log
from selfreg.audit.show import describe, figure


def series(rng, levels, problems, group, concentration=2.0):
    """Mean rewards of steps whose problems have Beta pass rates around a level."""
    levels = np.asarray(levels)[:, None]
    rates = rng.beta(
        np.maximum(levels * concentration, 1e-6),
        np.maximum((1 - levels) * concentration, 1e-6),
        (len(levels), problems),
    )
    return rng.binomial(group, rates).sum(axis=1) / (problems * group)


def test_a_policy_that_stands_still_is_rarely_called_collapsed(monkeypatch):
    monkeypatch.setattr(judge, "SIMULATED", 200)
    rng = np.random.default_rng(5)
    for steps, problems, group, level in ((20, 1, 16, 0.2), (40, 4, 8, 0.5), (50, 128, 8, 0.4)):
        p = [
            selfreg.audit(
                series(rng, np.full(steps, level), problems, group), problems * group, problems
            ).gap.p
            for _ in range(200)
        ]
        assert np.mean(np.array(p) <= 0.05) <= 0.095  # 5% and three of its errors
        assert 0.4 < np.mean(p) < 0.65


def test_a_collapse_is_called_one():
    levels = np.concatenate([np.linspace(0.3, 0.7, 40), np.full(20, 0.7), np.linspace(0.7, 0, 20)])
    values = series(np.random.default_rng(0), levels, 8, 8)
    found = selfreg.audit(values, samples_per_step=64, problems_per_step=8)
    assert found.finding is Finding.COLLAPSED
    assert found.gap.p < 0.001
    assert 30 <= found.shape.peak_step < 65
    assert found.shape.collapsed
    assert found.corrected_drop < found.gap.observed
    assert found.corrected_peak < found.shape.peak
    assert found.online.stop_step is not None
    assert found.next_budget == 20


@pytest.mark.parametrize(
    ("levels", "finding"),
    [
        (np.linspace(0.2, 0.7, 60), Finding.IMPROVED),
        (np.full(60, 0.5), Finding.STABLE),
        (np.full(60, 0.03), Finding.NOTHING_TO_LOSE),
        (np.concatenate([np.full(30, 0.5), np.full(30, 0.44)]), Finding.DECLINED),
    ],
)
def test_the_other_findings(levels, finding):
    values = series(np.random.default_rng(4), levels, 512, 16, concentration=20)
    assert selfreg.audit(values, 512 * 16, 512).finding is finding


def test_few_samples_tell_nothing():
    values = series(np.random.default_rng(1), np.full(20, 0.4), 1, 16)
    found = selfreg.audit(values, 16, 1)
    assert found.finding is Finding.NOISE
    assert found.gap.null_mean > 0.1


def test_numbers_by_hand():
    values = np.array([0.2, 0.4, 0.6, 0.4, 0.2, 0.0])
    found = selfreg.audit(values, 16, 2, steps=np.arange(10, 70, 10), window=2)
    assert found.steps.tolist() == [20, 30, 40, 50, 60]
    assert found.smoothed.tolist() == pytest.approx([0.3, 0.5, 0.5, 0.3, 0.1])
    assert (found.shape.peak_step, found.next_budget) == (30, 8)  # 3 steps to the peak, + 3, >= 8
    assert found.gap.observed == pytest.approx(0.4)
    assert found.gain == pytest.approx(-0.2)
    # Half the mean squared step, .04 / 2, is more than the binomial .3 x .7 / 16.
    assert found.noise_sd == pytest.approx(np.sqrt(0.02))
    # .02 = .21 / 16 (1 + 7 / (c + 1)): the concentration is 7 / (.32 / .21 - 1) - 1.
    assert found.beta.concentration == pytest.approx(7 / (0.32 / 0.21 - 1) - 1)
    smooth = rolling_mean(values, 2)[1:]
    orders = np.array([rolling_mean(np.random.default_rng(i).permutation(values), 2)
                       for i in range(2_000)])  # fmt: skip
    gaps = orders.max(axis=1) - orders[:, -1]
    assert smooth.max() - smooth[-1] == pytest.approx(0.4)
    assert found.permutation_p == pytest.approx(np.mean(gaps >= 0.4 - 1e-9), abs=0.04)


def test_a_metric_that_never_moves():
    flat = selfreg.audit(np.full(12, 0.0), 16, 1)
    assert (flat.finding, flat.gap.p, flat.gain_p) == (Finding.NO_DROP, 1, 1)
    assert selfreg.audit(np.full(12, 1.0), 16, 1).finding is Finding.NO_DROP


@pytest.mark.parametrize(
    ("values", "samples", "problems", "message"),
    [
        (np.linspace(-1, 1, 20), 16, 1, "goes from -1 to 1.*--low and --high"),
        (np.full(20, np.nan), 16, 1, "must be a rate"),
        (np.full(20, 0.5), 16, 3, "the same number of completions"),
        (np.full(20, 0.5), 0, 0, "the same number of completions"),
        (np.full(9, 0.5), 16, 1, "two windows"),
        (np.full((4, 5), 0.5), 16, 1, "one value a step"),
    ],
)
def test_bad_series_are_refused(values, samples, problems, message):
    with pytest.raises(ValueError, match=message):
        selfreg.audit(values, samples, problems)


def test_the_real_run_of_trl_in_words_and_as_a_picture(trl_state):
    log = read_log(trl_state)
    found = selfreg.audit(log.values, 32, 4, log.steps)
    text = describe(log, found)
    assert "trainer state, reward, steps 1 to 30" in text
    assert "a drop cannot be told from noise here, nor ruled out" in text
    assert "First window to last: +0.331, p < 0.001 for a rise." in text
    assert "entropy (entropy): start 3.127, peak 2.846, end 2.747." in text
    drawn = figure(log, found)
    assert len(drawn.axes) == 6
    assert len(drawn.axes[0].lines) == 3  # readings, their mean, the peak; the rule never fires


def run(*arguments):
    command = [sys.executable, "-m", "selfreg.audit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(trl_state, tmp_path):
    done = run(trl_state, "--samples_per_step=32", "--problems_per_step=4", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "Mean of 5 values: peak 0.800 at step 26" in done.stdout
    kept = json.loads((tmp_path / "trainer_state.json.audit.json").read_text())
    assert kept["finding"] == "not distinguishable from noise"
    assert (tmp_path / "trainer_state.json.audit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one log"),
        (["FILE"], "--samples_per_step and --problems_per_step are needed"),
        (["FILE", "--samples_per_step=32", "--problems_per_step=5"], "the same number"),
        (["FILE", "--samples_per_step=32", "--problems_per_step=4", "--column=x"], "--column"),
        (["none.csv", "--samples_per_step=32", "--problems_per_step=4"], "no such file"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(trl_state, arguments, message):
    done = run(*(trl_state if a == "FILE" else a for a in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_importing_selfreg_stays_light_and_either_import_can_be_called():
    code = (
        "import sys, selfreg; assert 'numpy' not in sys.modules\n"
        "import selfreg.audit as module; assert callable(module); import selfreg.audit\n"
        "assert selfreg.audit is module; selfreg.audit([0.5] * 12, 16, 1)\n"
        "assert 'jax' not in sys.modules\n"
        "try: selfreg.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
