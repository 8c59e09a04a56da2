import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import selfreg
from selfreg.analysis.finding import Finding
from selfreg.analysis.trajectory import rolling_mean
from selfreg.integrations.audit import counts, judge, noise, read_logs
from selfreg.integrations.audit.draw import figure
from selfreg.integrations.audit.show import describe, heading
from tests.audit.made import lines, rates


def series(rng, levels, problems, group, concentration=2.0):
    """Draw mean rewards of steps whose problems have Beta pass rates around a level."""
    levels = np.asarray(levels)[:, None]
    rates = rng.beta(
        np.maximum(levels * concentration, 1e-6),
        np.maximum((1 - levels) * concentration, 1e-6),
        (len(levels), problems),
    )
    return rng.binomial(group, rates).sum(axis=1) / (problems * group)


def called(p):
    """Return the share of p-values below 5%."""
    return np.mean(np.array(p) <= 0.05)


def quick(monkeypatch):
    monkeypatch.setattr(noise, "SIMULATED", 200)
    monkeypatch.setattr(noise, "_FEWEST", 200)
    monkeypatch.setattr(judge, "_PERMUTATIONS", 2)


def test_a_constant_policy_is_rarely_called_collapsed(monkeypatch):
    quick(monkeypatch)
    rng = np.random.default_rng(5)
    for steps, problems, group, level in ((20, 1, 16, 0.2), (40, 4, 8, 0.5), (50, 128, 8, 0.4)):
        p = [
            selfreg.audit(
                series(rng, np.full(steps, level), problems, group), problems * group, problems
            ).gap.p
            for _ in range(200)
        ]
        assert called(p) <= 0.095  # 5% plus three standard errors
        assert 0.4 < np.mean(p) < 0.65


def heavy(rng, n):
    return rng.standard_t(3, n)


def skewed(rng, n):
    return rng.exponential(1, n)


def autocorrelated(rng, n):
    values = rng.normal(size=n)
    for i in range(1, n):
        values[i] += 0.7 * values[i - 1]
    return values


def rolled(rng, n):
    """Draw values as Stable-Baselines logs them: a mean over the last episodes."""
    return rolling_mean(rng.normal(size=n + 20), 20)[20:]


@pytest.mark.parametrize(
    ("draw", "most"),
    [(heavy, 0.095), (skewed, 0.095), (autocorrelated, 0.14), (rolled, 0.18)],
)
def test_noise_of_any_kind_is_rarely_called_a_collapse(monkeypatch, draw, most):
    quick(monkeypatch)
    rng = np.random.default_rng(6)
    p = [selfreg.audit(100 + 10 * draw(rng, 60)).gap.p for _ in range(400)]
    assert called(p) <= most


def test_a_collapse_is_found():
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
    # The same holds without the counts, which the values show.
    unsaid = selfreg.audit(values)
    assert unsaid.finding is Finding.COLLAPSED
    assert unsaid.counts.samples == 64


def test_a_collapse_in_one_step_is_not_taken_for_noise():
    rng = np.random.default_rng(0)
    values = np.concatenate([300 + 10 * rng.normal(size=30), -50 + 10 * rng.normal(size=10)])
    found = selfreg.audit(values)
    assert found.finding is Finding.COLLAPSED
    assert found.noise.sd < 25


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


def test_few_samples_decide_nothing():
    values = series(np.random.default_rng(1), np.full(20, 0.4), 1, 16)
    found = selfreg.audit(values, 16, 1)
    assert found.finding is Finding.NOISE
    assert found.gap.null_mean > 0.1


def test_numbers_by_hand():
    values = np.array([0.25, 0.5, 0.75, 0.5, 0.25, 0.0])
    found = selfreg.audit(values, 16, 2, steps=np.arange(10, 70, 10), window=2)
    assert found.steps.tolist() == [20, 30, 40, 50, 60]
    assert found.smoothed.tolist() == pytest.approx([0.375, 0.625, 0.625, 0.375, 0.125])
    assert (found.shape.peak_step, found.next_budget) == (30, 8)  # 3 steps to the peak + 3, clamped
    assert found.gap.observed == pytest.approx(0.5)
    assert found.gain == pytest.approx(-0.25)
    # Half the mean squared step, 1/16 / 2, is more than the binomial .375 x .625 / 16.
    assert found.noise.sd == pytest.approx(np.sqrt(1 / 32))
    assert found.noise.binomial_sd == pytest.approx(np.sqrt(0.375 * 0.625 / 16))
    # 1/32 = .234375 / 16 (1 + 7 / (c + 1)).
    rho = (1 / 32) / (0.234375 / 16) - 1
    assert found.noise.beta.concentration == pytest.approx(7 / rho - 1)
    orders = np.array([rolling_mean(np.random.default_rng(i).permutation(values), 2)[1:]
                       for i in range(2_000)])  # fmt: skip
    gaps = orders.max(axis=1) - orders[:, -1]
    assert found.permutation_p == pytest.approx(np.mean(gaps >= 0.5 - 1e-9), abs=0.04)


def test_a_metric_that_never_moves():
    flat = selfreg.audit(np.full(12, 0.0), 16, 1)
    assert (flat.finding, flat.gap.p, flat.gain_p) == (Finding.NOTHING_TO_LOSE, 1, 1)
    assert heading(flat) == "never rewarded: all 12 values are 0"
    one = selfreg.audit(np.full(12, 1.0), 16, 1)
    assert one.finding is Finding.NO_DROP
    assert heading(one) == "no change: all 12 values are 1"
    assert "no change: all" in heading(selfreg.audit(np.full(12, -7.5)))


def test_the_heading_of_a_rise():
    levels = np.concatenate([np.linspace(0.1, 0.78, 30), np.full(6, 0.72)])
    found = selfreg.audit(rates(levels, 64, seed=2))
    assert found.finding is Finding.IMPROVED
    assert heading(found).startswith("rose by")


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        (np.linspace(-1, 1, 20), {"low": 0.0}, "from -1 to 1, outside of low=0 and high=1"),
        (np.full(20, 0.5), {"low": 1.0, "high": 0.0}, "low=1 must be less than high=0"),
        (np.full(20, np.nan), {}, "0 finite values"),
        ([0.5] * 3 + [np.nan] * 9, {}, "FAILED .*nan from step 3"),
        (np.full(20, 0.5), {"samples_per_step": 16, "problems_per_step": 3}, "the same number"),
        (np.full(20, 0.5), {"samples_per_step": 0}, "a whole number of at least 1"),
        (np.full(20, 0.5), {"samples_per_step": 2.5}, "2.5 must be a whole number"),
        (np.full(9, 0.5), {}, "two windows"),
        (np.full((4, 5), 0.5), {}, "one value per step"),
        (0.5, {}, "must be numbers|one value per step"),
        (["a"] * 20, {}, "must be numbers"),
        (np.full(3, 0.5), {"steps": [3, 2, 1]}, "steps must increase: 2 follows 3"),
        (np.full(3, 0.5), {"steps": [1, 2]}, "one value per step"),
    ],
)
def test_bad_series_are_refused(values, arguments, message):
    with pytest.raises(ValueError, match=message):
        selfreg.audit(values, **arguments)


def test_lists_arrays_pandas_and_polars_mean_the_same():
    values = rates(np.full(30, 0.5))
    frames = [
        values, values.astype(np.float32), list(map(float, values)), tuple(values),
        pd.Series(values, index=range(7, 37)), pd.DataFrame({"reward": values}),
    ]  # fmt: skip
    try:
        import polars as pl
    except ImportError:
        pass
    else:
        frames += [pl.Series("reward", values), pl.DataFrame({"reward": values})]
    first, *others = [selfreg.audit(one, 64.0) for one in frames]
    for other in others:
        np.testing.assert_allclose(other.smoothed, first.smoothed, rtol=1e-6)
    halves = selfreg.audit(values, 64, steps=pd.Series(np.arange(30) / 2))
    assert halves.shape.end_step == 14.5
    gaps = selfreg.audit([None if i == 4 else v for i, v in enumerate(values)])
    assert gaps.values == 29


@pytest.mark.parametrize("samples", [8, 48, 64, 256, 1000])
@pytest.mark.parametrize("printed", ["{!r}".format, "{:.4g}".format, "{:.6f}".format, np.float32])
def test_the_values_show_the_number_of_samples(samples, printed):
    logged = rates(np.linspace(0.2, 0.8, 200), samples).tolist()
    found = counts.choose(np.array([float(printed(v)) for v in logged]))
    # Every reward rounded to three digits is a multiple of 1/1000.
    assert found.samples in ([samples] if samples < 1000 else [samples, None])


def test_other_values_show_no_number_of_samples():
    rng = np.random.default_rng(0)
    for values in (rng.random(200), rng.random(200).round(2), rng.random(200).round(3)):
        assert counts.choose(values).samples is None
    given = counts.choose(rng.random(200), 64, 8)
    assert given.samples is None
    assert "not multiples of 1/64" in given.why


def test_the_real_run_of_trl_in_words_and_as_a_picture(trl_state):
    (log,) = read_logs(trl_state)
    found = selfreg.audit(log.values, 32, 4, log.steps)
    text = describe(log, found)
    assert "Read as trainer state: 30 values of 'reward' at steps 1 to 30" in text
    assert "rose by 0.331 beyond noise; a drop of up to 0.1" in text
    assert "First window to last: +0.331, p < 0.001 for a rise." in text
    assert "entropy (entropy): start 3.127, peak 2.846, end 2.747." in text
    drawn = figure(log, found)
    assert len(drawn.axes) == 6
    assert len(drawn.axes[0].lines) == 3  # readings, their mean, the peak; the rule never stops


def test_long_series_are_read_as_means():
    rng = np.random.default_rng(0)
    levels = np.concatenate([np.linspace(0.2, 0.8, 15_000), np.linspace(0.8, 0.3, 5_000)])
    values = rng.binomial(32, levels) / 32
    found = selfreg.audit(values)
    assert found.finding is Finding.COLLAPSED
    assert (found.per_reading, found.window, found.values) == (40, 200, 20_000)
    assert found.noise.binomial_sd < 0.02
    assert abs(found.shape.peak_step - 15_000) < 600


def test_the_command(trl_state, command):
    done = command(trl_state, "--html")
    assert done.returncode == 0, done.stderr
    assert "mean of 5 values: start 0.45, peak 0.8 at step 26" in done.stdout
    assert "32 samples per value (every value is a multiple of 1/32)" in done.stdout
    kept = command.records()["trainer_state.json.audit.json"]
    assert kept["finding"] == "improved"
    picture = command.out / "trainer_state.json.audit.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    html = (command.out / "trainer_state.json.audit.html").read_text()
    assert "rose by 0.331" in html
    assert "<script" not in html


def test_a_folder_of_runs_is_compared_seed_by_seed(tmp_path, command):
    for name, end in (("grpo", 0.2), ("es", 0.7)):
        for seed in (1, 2, 3):
            folder = tmp_path / "runs" / f"{name}_seed{seed}"
            folder.mkdir(parents=True)
            levels = np.concatenate([np.linspace(0.3, 0.7, 30), np.linspace(0.7, end, 10)])
            values = rates(levels, 64, seed=seed)
            rows = [{"step": i, "reward": v} for i, v in enumerate(values)]
            (folder / "metrics.jsonl").write_text(lines(rows))
    (tmp_path / "runs" / "config.json").write_text('{"lr": 1}')
    (tmp_path / "bad.csv").write_text("nothing\n")
    done = command(tmp_path / "runs", tmp_path / "bad.csv", "--html")
    assert done.returncode == 2
    assert "bad.csv" in done.stderr
    assert "grpo - es, paired over 3 shared seeds (1, 2, 3): end -" in done.stdout
    assert len(command.records()) == 6
    page = (command.out / "audit.html").read_text()
    for name in ("grpo_seed1", "es_seed3", "bad.csv", "paired over 3 shared seeds"):
        assert name in page
    for link in command.records():
        assert f'href="{link.removesuffix(".json")}.html"' in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one log"),
        (["FILE", "--samples_per_step=32", "--problems_per_step=5"], "the same number"),
        (["FILE", "--column=x"], "--column"),
        (["FILE", "--low=1", "--high=0"], "--low=1.0 must be less"),
        (["none.csv"], "no such file"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(trl_state, command, arguments, message):
    done = command(*(trl_state if a == "FILE" else a for a in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_one_bad_file_does_not_stop_a_batch(trl_state, tmp_path, command):
    (tmp_path / "bad.jsonl").write_bytes(b"\x00\x01\x02" * 100)
    done = command(tmp_path / "bad.jsonl", "none.csv", trl_state)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 2
    assert list(command.records()) == ["trainer_state.json.audit.json"]


def test_importing_selfreg_stays_light_and_either_import_can_be_called():
    code = (
        "import sys, selfreg; assert 'numpy' not in sys.modules\n"
        "import selfreg.audit as module; assert callable(module); import selfreg.audit\n"
        "assert selfreg.audit is module; selfreg.audit([0.5] * 12, 16, 1)\n"
        "for heavy in ('jax', 'scipy', 'pyarrow', 'matplotlib', 'torch', 'tensorboardX'):\n"
        "    assert heavy not in sys.modules, heavy\n"
        "try: selfreg.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_records_are_json_without_nan(tmp_path, command):
    rows = [{"step": i, "reward": v} for i, v in enumerate(rates(np.full(20, 0.5)))]
    (tmp_path / "a.jsonl").write_text(lines(rows))
    command(tmp_path / "a.jsonl")
    (file,) = command.out.glob("*.json")
    json.loads(file.read_text(), parse_constant=pytest.fail)
