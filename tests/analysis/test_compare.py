import subprocess
import sys

import pytest
from rich.console import Console

from selfreg.analysis.compare import (
    Judged,
    config_differences,
    describe,
    differences,
    markdown,
    pair,
    summary,
    table,
)
from selfreg.analysis.load import load_run
from selfreg.analysis.overview import compare_folder
from selfreg.analysis.verdict import judge_run

FALL, RISE = [[0.3, 0.5, 0.1, 0.0]], [[0.3, 0.4, 0.5]]


@pytest.fixture
def judged(write_run):
    """Return a function that writes and judges runs: judged(("A0", 7, levels), ...)."""

    def write(*wanted, **kwargs):
        place = kwargs.get("name", "runs")
        runs = [
            load_run(write_run(f"{place}/{c}/seed_{s}", levels, condition=c, seed=s, **kwargs))
            for c, s, levels in wanted
        ]
        return [Judged(run, judge_run(run)) for run in runs]

    return write


def test_table(judged):
    rows = table(judged(("ES", 7, RISE), ("A0", 11, FALL), ("A0", 7, FALL)))
    assert [(row["condition"], row["seed"]) for row in rows] == [
        ("A0", "7"), ("A0", "11"), ("ES", "7"),
    ]  # fmt: skip
    assert rows[0] == {
        "condition": "A0", "seed": "7", "done": "1/1", "updates": "3", "start": "0.30 ± 0.05",
        "best peak": "0.50 ± 0.08", "end": "0.00 ± 0.00", "kept": "0.00 ± 0.00",
    }  # fmt: skip
    assert markdown(rows).splitlines()[:3] == [
        "| condition | seed | done | updates | start | best peak | end | kept |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| A0 | 7 | 1/1 | 3 | 0.30 ± 0.05 | 0.50 ± 0.08 | 0.00 ± 0.00 | 0.00 ± 0.00 |",
    ]


def test_an_unfinished_first_campaign_has_no_scores(judged):
    (row,) = table(judged(("A0", 7, FALL), finished=0))
    assert (row["done"], row["kept"]) == ("0/1", "-")


def test_one_seed_is_paired_by_problem_only(judged):
    (pairing,) = pair(judged(("A0", 7, FALL), ("ES", 7, RISE)))
    assert (pairing.name, pairing.baseline, pairing.seeds) == ("ES", "A0", (7,))
    assert pairing.by_seed[0].mean == pytest.approx(0.5)
    assert pairing.over_seeds is None
    lines = describe(pairing)
    assert lines[0].startswith("Kept by ES - kept by A0, seed 7: +0.50 [+0.33, +0.67], paired")
    assert "n = 12 problems x 8 samples" in lines[0]
    assert "one training seed" in lines[1]
    assert "different numbers of updates (ES 2; A0 3)" in lines[-1]
    assert "Run a control with equal updates" in lines[-1]


def test_several_seeds_are_paired_by_seed(judged):
    wanted = [("A0", s, [[0.3, 0.2]]) for s in (7, 11, 17)]
    wanted += [("ES", s, [[0.3, up]]) for s, up in ((7, 0.4), (11, 0.5), (23, 0.6))]
    (pairing,) = pair(judged(*wanted))
    assert pairing.seeds == (7, 11)
    assert pairing.over_seeds.differences == pytest.approx((0.2, 0.3))
    assert pairing.over_seeds.sign_flip_p == 0.5
    assert describe(pairing) == []  # its table row says everything, and the updates are equal
    (shown,) = differences([pairing])
    assert shown == {
        "kept by": "ES - A0", "seeds": "2", "mean [95% t]": "+0.250 [-0.385, +0.885]",
        "[95% bootstrap]": "[+0.200, +0.300]", "sign-flip p": "0.5", "Holm p": "0.5",
        "updates": "1; 1", "by seed": "+0.20, +0.30",
    }  # fmt: skip


def test_conditions_are_averaged_over_their_finished_seeds(judged):
    wanted = [("A0", 7, [[0.3, 0.2]]), ("A0", 11, [[0.3, 0.1, 0.4]]), ("ES", 7, [[0.3, 0.9]])]
    (row,) = summary(judged(*wanted))  # ES has one seed
    # 0.2 and 0.4: t(1, 0.975) = 12.706 times 0.1414 / sqrt(2).
    mean = "0.300 [-0.971, 1.571]"
    assert row == {"condition": "A0", "seeds": "2", "updates": "1-2", "end": mean, "kept": mean}
    assert summary(judged(("M1", 7, FALL))) == []


def test_each_is_paired_with_the_baseline_and_with_its_equal_updates_control(judged, write_run):
    runs = judged(("A0", 7, FALL), ("ES", 7, RISE), ("GRPO", 7, RISE))
    told = {"match_updates_of": "elsewhere/runs/ES/seed_7"}
    equal = load_run(write_run("runs/EQ/seed_7", [[0.3, 0.2, 0.1]], condition="EQ", control=told))
    runs.append(Judged(equal, judge_run(equal)))

    def pairs(**kwargs):
        return [(p.name, p.baseline) for p in pair(runs, **kwargs)]

    assert pairs() == [("EQ", "A0"), ("ES", "A0"), ("ES", "EQ"), ("GRPO", "A0")]
    assert pairs(baseline="GRPO") == [
        ("A0", "GRPO"), ("EQ", "GRPO"), ("ES", "GRPO"), ("ES", "EQ"),
    ]  # fmt: skip
    warned = {p.name for p in pair(runs) if any("WARNING" in line for line in describe(p))}
    assert warned == {"GRPO"}  # it made fewer updates and has no equal-updates control
    with pytest.raises(ValueError, match=r"--baseline=A3: the conditions are A0, EQ, ES, GRPO"):
        pairs(baseline="A3")


def test_waves_are_compared_within_themselves(judged):
    runs = judged(("A0", 7, FALL), ("ES", 7, RISE), name="one")
    runs += judged(("M1", 7, FALL), ("M2", 7, RISE), name="two")
    assert [(p.name, p.baseline) for p in pair(runs)] == [
        ("one/ES", "one/A0"), ("two/M1", "one/A0"), ("two/M2", "one/A0"),
    ]  # fmt: skip
    runs += judged(("A0", 7, FALL), name="three")  # a second A0 leaves the baseline unclear
    assert [(p.name, p.baseline) for p in pair(runs)] == [
        ("one/ES", "one/A0"), ("two/M2", "two/M1"),
    ]  # fmt: skip


def test_seeds_that_cannot_be_paired_are_named(judged):
    runs = judged(("A0", 7, FALL)) + judged(("ES", 7, RISE), finished=0)
    (pairing,) = pair(runs)
    assert pairing.seeds == ()
    assert describe(pairing) == [
        "Kept by ES - kept by A0: seed 7 left out, because a run is unfinished or the report "
        "panels differ."
    ]
    assert pair(judged(("A0", 11, FALL), ("ES", 17, RISE))) == []


def test_one_chain_twice_is_refused(judged, write_run):
    runs = judged(("A0", 7, FALL))
    copy = load_run(write_run("copy", FALL))
    with pytest.raises(ValueError, match="two runs are A0 seed 7"):
        pair([*runs, Judged(copy, judge_run(copy))])


def test_config_differences(write_run):
    a = load_run(write_run("a", optimizer={"lr": 1e-3}, between="naive"))
    by_condition = {"seed": 11, "condition": "ES", "between": "early_stop"}
    b = load_run(write_run("b", optimizer={"lr": 1e-4}, **by_condition))
    assert config_differences([a, b]) == ["optimizer.lr: 0.0001, 0.001"]
    assert config_differences([a, a]) == []
    c = load_run(write_run("c", optimizer={"lr": 1e-3}, between="care_v2"))
    assert config_differences([a, c]) == ["between: 'by condition', 'care_v2'"]


def test_a_folder_of_runs(judged, tmp_path):
    judged(("A0", 7, FALL), ("ES", 7, RISE))
    out = tmp_path / "out"
    console = Console(record=True, width=80)
    compare_folder(tmp_path / "runs", out, console)
    shown = console.export_text()
    assert "0.50 ± 0.08 0.00 ± 0.00 0.00 ± 0.00" in shown  # not cut at 80 columns
    assert "WARNING" in shown
    assert (out / "trajectory.png").exists()
    assert "Run a control with equal updates" in (out / "comparison.md").read_text("utf-8")
    html = (out / "report.html").read_text(encoding="utf-8")
    assert 'href="../runs/A0/seed_7/report.html"' in html
    assert (tmp_path / "runs/A0/seed_7/report.html").exists()


def test_a_report_is_rewritten_only_if_the_run_has_continued(judged, tmp_path):
    judged(("A0", 7, FALL), ("ES", 7, RISE))
    folder, console = tmp_path / "runs", Console(quiet=True)
    compare_folder(folder, folder, console)
    report = folder / "A0/seed_7/report.html"
    report.write_text("kept")
    compare_folder(folder, folder, console)
    assert report.read_text() == "kept"
    (folder / "A0/seed_7/metrics.jsonl").touch()
    compare_folder(folder, folder, console)
    assert report.read_text() != "kept"


def test_a_single_run_gets_its_own_report(write_run):
    folder = write_run()
    console = Console(record=True, width=200)
    compare_folder(folder, folder, console)
    assert "COLLAPSED" in console.export_text()
    assert (folder / "verdict.json").exists()
    assert not (folder / "comparison.md").exists()


def test_a_comparison_never_replaces_a_runs_report(judged, tmp_path):
    runs = judged(("A0", 7, FALL), ("ES", 7, RISE))
    with pytest.raises(ValueError, match="own folder"):
        compare_folder(tmp_path / "runs", runs[0].run.folder, Console(quiet=True))


def test_a_run_that_cannot_be_read_is_left_out(judged, tmp_path):
    judged(("A0", 7, FALL), ("ES", 7, RISE))
    (tmp_path / "runs/ES/seed_7/metrics.jsonl").write_text("")
    console = Console(record=True, width=200)
    compare_folder(tmp_path / "runs", tmp_path / "out", console)
    assert "left out" in console.export_text()


@pytest.mark.parametrize(("arguments", "message"), [([], "--runs"), (["--runs=absent"], "absent")])
def test_a_users_mistake_ends_in_one_line(arguments, message):
    command = [sys.executable, "-m", "selfreg.analysis", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
