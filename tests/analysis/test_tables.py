import csv
import io
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from selfreg.analysis.load import load_run
from selfreg.analysis.overview import write_paper
from selfreg.analysis.paper import published
from selfreg.analysis.paper.figures import write_figures
from selfreg.analysis.paper.tables import TABLES, write_tables
from selfreg.analysis.paper.tables_cells import PAPER, Table
from selfreg.analysis.paper.tables_runs import PaperRuns, collect, null_chains
from selfreg.analysis.paper.tables_write import differences, grid, latex, markdown, to_csv
from selfreg.run import rundir
from selfreg.run.records import Answer, Plan

PASS_RATE, REPORT = "pass_rate, mean of 5 steps", "report panel"
NUMBERS = (1, 2, *range(4, 19))

# pass_rate is 0.5, 0.25, 0, 0; only the report panel measures the end. The means of 5 are 0.5,
# 0.375, 0.25, 0.1875. So the peak is 0.5 at step 0, the end 0.1875 at step 3, the gap 0.3125 and
# the largest drop 0.125. The end, 0.1875, is not below 30% of the peak.
FALL = (0.5, 0.25, 0.0, 0.0, 0.1)
# The means are 0.25, 0.375, 0.5, so the campaign ends at its peak.
RISE = (0.25, 0.5, 0.75, 0.6)
# The means are 0.5, 0.25, 0.125, 0.09375 (3/32), ...: 0.125 < 0.15, so the onset is step 2 of 3.
CLIFF = (0.5, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture
def chains(write_run):
    """Return a function that writes and collects chains: (name, condition, seed, levels)."""

    def write(*wanted, **kwargs):
        runs = []
        for name, condition, seed, levels in wanted:
            options = {"name": name, "condition": condition, "seed": seed, "panel": False} | kwargs
            where = f"runs/{name}/{condition}/seed_{seed}"
            runs.append(load_run(write_run(where, levels, control_metric="pass_rate", **options)))
        return runs

    return write


def row(table: Table, label: str, reading: str) -> tuple[str, ...]:
    (found,) = [r.cells for r in table.rows if label in r.labels and r.reading == reading]
    return found


def difference(table: Table, name: str, reading: str):
    (found,) = [c for c in table.comparisons if (c.name, c.reading) == (name, reading)]
    return found


# --- What the paper prints ------------------------------------------------------------------------


def test_every_table_except_the_prose_one_exists():
    assert tuple(published.tables()) == NUMBERS == tuple(TABLES)
    for number, printed in published.tables().items():
        assert printed.number == number
        for one in printed.rows:
            assert len(one.cells) == len(printed.columns)
            assert len(one.labels) == len(printed.labels)
            assert bool(one.runs) != bool(printed.column_runs)


@pytest.mark.parametrize(
    ("number", "label", "column", "printed"),
    [
        (1, "EWC (KL=0.05)", "C2 end", "0.10"),
        (2, "Step 150 (collapsed)", "End pass@1", "0.00"),
        (4, "+ Transfer gate (v2)", "End pass@1 (%)", "15.7 [8.3, 24.9] (n=5)"),
        (6, "Qwen2.5-3B + Naive (end-ckpt)", "End pass@1 (%)", "4.9 [2.1, 9.5] (n=5)"),
        (7, "Full CARE v2 (10x, pilot-aware)", "pass@1 per 100 steps (%)", "9.80"),
        (9, "CARE v2 (gate-adjusted)", "Hindsight (%)", "47.9 [40.0, 57.6] (n=5)"),
        (11, "mean gap (peak – end)", "REINFORCE (W4)", "0.176"),
        (11, "collapse rate (gap > 0.3)", "GRPO (W17)", "6%"),
        (12, "s23", "GRPO+ES (W18)", "28.08"),
        (14, "7B + CARE 5-camp", "cpp_acc (%)", "15.2 [12.5, 17.9] (n=2)"),
        (15, "11", "K-dim disagree", "✓"),
        (16, "Naive (A0)", "Collapse-onset step", "16.7 [16.6, 16.9] (n=47)"),
        (17, "Full CARE (+ revision)", "Collapse rate (%)", "33.3 ± 57.7"),
        (18, "ES (deployed, T=peak+3)", "GPU-hr", "≈ 22"),
    ],
)
def test_the_papers_numbers_are_copied_as_printed(number, label, column, printed):
    table = TABLES[number](PaperRuns())
    assert row(table, label, PAPER)[table.columns.index(column)] == printed


# --- Nothing ran ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_cells_without_a_run_say_so_and_never_show_the_papers_number(number):
    table = TABLES[number](PaperRuns())
    ours = [r for r in table.rows if r.reading != PAPER]
    assert len(ours) == len(published.tables()[number].rows)
    assert {cell for r in ours for cell in r.cells} == {"not run"}
    assert {(c.difference, c.p, c.holm) for c in table.comparisons} <= {("not run", "", "")}


def test_without_a_run_every_file_is_written(tmp_path):
    runs = PaperRuns()
    write_tables(runs, tmp_path / "out", write_figures(runs, tmp_path / "out"))
    text = (tmp_path / "out/tables.md").read_text(encoding="utf-8")
    for number in NUMBERS:
        assert f"## Table {number}. " in text
        for form in ("csv", "tex"):
            assert "not run" in (tmp_path / f"out/table_{number:02d}.{form}").read_text("utf-8")
    for number in (1, 3):
        assert f"![Figure {number}](figure_{number}.png)" in text
        assert (tmp_path / f"out/figure_{number}.png").read_bytes().startswith(b"\x89PNG")
        assert b"</svg>" in (tmp_path / f"out/figure_{number}.svg").read_bytes()


# --- Which chains are read ------------------------------------------------------------------------


def test_chains_are_known_by_their_wave(chains):
    runs = chains(
        ("w2-tiny-cpp", "B0", 17, [FALL]),
        ("w17-7b-tiny", "A0", 23, [FALL]),
        ("w17-7b-tiny", "A0", 17, [FALL]),
        ("tiny", "A0", 17, [FALL]),  # not a wave of the paper
        ("w17-7b-tiny", "ES", 17, [FALL]),  # a condition that no table reads
    )
    found = collect(runs)
    assert set(found.chains) == {"w2-cpp/B0", "w17-7b/A0"}
    assert [run.seed for run in found.of("w17-7b/A0")] == [17, 23]
    assert found.tiny
    assert "tiny variant" in TABLES[10](found).notes[0]


def test_tiny_chains_are_never_mixed_with_the_papers_models(chains):
    small = chains(("w4-tiny", "A0", 7, [FALL]))
    large = chains(("w7", "A0", 7, [FALL]), model={"path": "Qwen/Qwen2.5-3B-Instruct"})
    found = collect([*small, *large])
    assert set(found.chains) == {"w7/A0"}
    assert found.left_out == ("tiny chains (1), because full chains exist",)
    assert TABLES[6](found).notes[0] == "Measured on Qwen/Qwen2.5-3B-Instruct."


def test_an_unfinished_chain_is_left_out(chains):
    runs = [
        *chains(("w7", "A0", 7, [FALL, FALL])),
        *chains(("w7", "A0", 11, [FALL, FALL]), finished=1),
    ]
    found = collect(runs)
    assert [run.seed for run in found.of("w7/A0")] == [7]
    assert found.left_out == ("w7/A0 seed 11, unfinished",)


def test_the_same_chain_twice_is_refused(chains):
    (run,) = chains(("w7", "A0", 7, [FALL]))
    with pytest.raises(ValueError, match="two runs are w7/A0 seed 7"):
        collect([run, run])


# --- What is measured -----------------------------------------------------------------------------


def test_one_chain_has_no_interval_over_chains(chains):
    found = collect(chains(("table1-kl", "A0", 7, [FALL, RISE, CLIFF])))
    cells = row(TABLES[1](found), "EWC (KL=0.05)", PASS_RATE)
    assert cells == tuple(
        f"{value:.2f} (n=1)" for value in (0.5, 0.5, 0.1875, 0.25, 0.5, 0.5, 0.5, 0.5, 0.125)
    )
    cells = row(TABLES[1](found), "EWC (KL=0.05)", REPORT)
    # 12 problems at 0.05 and 0.15: sd 0.0522, over the root of 12.
    assert cells[2] == "0.10 ± 0.02"


def test_a_continuation_and_its_verdict(chains):
    found = collect(chains(("table2-step50", "A0", 7, [(0.5, 0.25, 0.0, 0.0, 0.1)])))
    table = TABLES[2](found)
    shown = row(table, "Step 50 (peak)", PASS_RATE)
    assert shown == ("0.50 (n=1)", "0.19 (n=1)", "0.19 (n=1)", "–")
    assert row(table, "Step 50 (peak)", REPORT)[3] == "collapsed"
    assert row(table, "Step 100 (degrading)", "measured") == ("not run",) * 4


def test_ends_differences_and_holm(chains):
    # The report panel has the paper's five differences at 3B, and two equal ones at 7B.
    care = (11.1, 10.2, 1.7, 1.7, -1.6)
    wanted = [("w7", "A0", seed, [(0.5, 0.25, 0.1)]) for seed in range(5)]
    wanted += [("w7", "A3", seed, [(0.25, 0.5, 0.1 + d / 100)]) for seed, d in enumerate(care)]
    wanted += [
        ("w4", c, seed, [(0.5, 0.25, e)]) for c, e in (("A0", 0.1), ("A3", 0.2)) for seed in (7, 11)
    ]
    table = TABLES[6](collect(chains(*wanted)))
    assert row(table, "Qwen2.5-3B + Naive (end-ckpt)", PASS_RATE) == (
        "37.5 [37.5, 37.5] (n=5)",
        "5",
    )
    assert row(table, "Qwen2.5-3B + Naive (end-ckpt)", REPORT) == ("10.0 [10.0, 10.0] (n=5)", "5")
    large = difference(table, "CARE v2 - naive, 3B", REPORT)
    assert large.difference == "+4.62 [+0.38, +9.04] (n=5)"  # the paper's 0.4 and 8.9
    assert (large.p, large.holm, large.paper) == ("0.125", "0.25", "[+0.4, +8.9]")
    small = difference(table, "CARE v2 - naive, 7B", REPORT)
    assert small.difference == "+10.00 [+10.00, +10.00] (n=2)"
    assert (small.p, small.holm) == ("0.5", "0.5")


def test_differences_use_only_shared_seeds(chains):
    wanted = [("w4", "A0", seed, [(0.5, 0.5, 0.25)]) for seed in (7, 11, 17)]
    wanted += [("w8", "ES", seed, [(0.5, 0.5, 0.5)]) for seed in (17, 23)]
    table = TABLES[10](collect(chains(*wanted)))
    shown = difference(table, "ES - none, REINFORCE", REPORT)
    assert (shown.difference, shown.p, shown.holm) == ("+25.00 (n=1)", "", "")
    assert difference(table, "CARE - none, GRPO", "measured").difference == "not run"


def test_collapse_rates_are_of_the_last_campaign(chains):
    # Ends / peaks of pass_rate: 3/32 of 0.5 collapses, 0.1875 of 0.5 does not.
    wanted = [("w1", "A0", 17, [FALL, CLIFF]), ("w1", "A0", 23, [CLIFF, FALL])]
    table = TABLES[17](collect(chains(*wanted)))
    cells = row(table, "Naive chain (no memory)", PASS_RATE)
    assert cells == ("15.6 [12.5, 18.8] (n=2)", "50.0 [0.0, 100.0] (n=2)")


def test_updates_and_pass_at_1_per_100_of_them(chains):
    found = collect(chains(("w4", "A0", 7, [FALL, FALL]), ("w4", "A0", 11, [FALL, RISE])))
    cells = row(TABLES[7](found), "Naive chain (10x, end-ckpt)", PASS_RATE)
    # 8 and 7 updates, ends 0.1875 and 0.5: 100 / 8 * 18.75% and 100 / 7 * 50%.
    assert cells[0] == "8 [7, 8] (n=2)"
    assert cells[2] == "474.33 [234.38, 714.29] (n=2)"


def test_collapses_of_a_chain_beside_those_of_a_stationary_one(chains):
    found = collect(chains(("w4", "A0", 7, [CLIFF, CLIFF]), ("w4", "A0", 11, [FALL, RISE])))
    table = TABLES[8](found)
    assert row(table, "Naive chain", PASS_RATE) == (
        "1.0",
        "50% [0, 100] (n=2)",
        "1.00 [0.00, 2.00] (n=2)",
    )
    assert " p=" in row(table, "Naive chain", "stationary null")[2]


def test_oracles(chains):
    slide = (0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2)
    # Means of 5: 0, .5, .5, .375, .3, .3, .1, .0. Steps 3, 4 and 5 are below .48, so it stops at 5.
    found = collect(chains(("w14", "M1", 17, [RISE, slide]), ("w8", "ES", 17, [RISE, slide])))
    table = TABLES[9](found)
    shown = row(table, "MORBO-proxy (random Pareto HPO)", PASS_RATE)
    assert shown == ("0.0 (n=1)", "50.0 (n=1)", "8 (n=1)", "50.0 (n=1)")  # 3 updates and 5
    assert row(table, "Deployed ES (T=peak+3)", PASS_RATE)[1:3] == ("–", "11 (n=1)")
    # Both campaigns peak at 0.5; the report panel measured the first's peak, step 2, at 0.75.
    assert row(table, "MORBO-proxy (random Pareto HPO)", REPORT)[3] == "75.0 (n=1)"


def test_shapes_of_campaigns(chains):
    wanted = [("w4", "A0", 7, [FALL, RISE]), ("w4", "A0", 11, [CLIFF, CLIFF])]
    found = collect(chains(*wanted))
    table = TABLES[11](found)

    def cell(label: str) -> str:
        ours, other = row(table, label, PASS_RATE)
        assert other == "not run"
        return ours

    assert cell("n campaigns") == "4"
    assert cell("mean peak pass@1") == "0.500 [0.500, 0.500] (n=2)"
    # (0.1875 + 0.5) / 2 and 0.125; the last mean of CLIFF's four steps is 0.5 / 4.
    assert cell("mean end pass@1") == "0.234 [0.125, 0.344] (n=2)"
    assert cell("mean gap (peak – end)") == "0.266 [0.156, 0.375] (n=2)"
    assert cell("collapse rate (gap > 0.3)") == "75% [50, 100] (n=2)"
    assert cell("collapse rate (gap > 0.5)") == "0% [0, 0] (n=2)"
    assert cell("mean end at c = 1..10 (section 5.9)") == "0.16, 0.31"
    # On the report panel FALL falls from 0.5 to 0.1, RISE from 0.75 to 0.6, CLIFF from 0.5 to 0.
    verdicts = row(table, "verdicts on campaigns (not in the paper)", REPORT)
    assert verdicts == ("collapsed 4", "not run")

    shown = row(TABLES[16](found), "Naive (A0)", PASS_RATE)
    # FALL: 0.125 / 0.3125; CLIFF: 0.25 / 0.375. RISE has no drop; RISE and FALL have no onset.
    assert shown[0] == "0.53 [0.40, 0.67] (n=2, 3 campaigns)"
    assert shown[1] == "3.0 (n=1, 2 campaigns)"
    assert shown[2] == "0.0 (n=1, 2 campaigns)"


def test_a_constant_policy_agrees_with_the_null(chains):
    found = collect(chains(("w4", "A0", 7, [(0.25,) * 21] * 2)))
    null = null_chains(found.of("w4/A0"), draws=300)
    assert null.end.shape == (300,)
    # Without spread between groups the null is nearly binomial, with means of 5 x 16 samples.
    assert null.campaigns.end.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 80 / 600))
    assert (null.campaigns.peak > null.campaigns.end).mean() > 0.8
    text = row(TABLES[11](found), "mean gap (peak – end)", "stationary null")[0]
    assert text.endswith("p=1")  # the measured gap is 0


def test_a_control_that_reads_a_panel_has_no_null_of_pass_rate(write_run):
    run = load_run(write_run("runs/w4", [FALL], name="w4"))
    table = TABLES[11](collect([run]))
    assert {r.reading for r in table.rows} == {PAPER, "panel_pass_at_1", REPORT}
    assert row(table, "mean peak pass@1", "panel_pass_at_1")[0] == "0.500 (n=1)"


def test_early_stop_on_grpo_seed_by_seed(chains):
    wanted = [("w18", "ES", 17, [RISE]), ("w18", "ES", 23, [CLIFF])]
    wanted += [("w17-7b", "A0", 17, [CLIFF]), ("w17-7b", "A0", 23, [CLIFF])]
    table = TABLES[12](collect(chains(*wanted)))
    assert row(table, "s17", PASS_RATE) == ("50.00 (n=1)", "12.50 (n=1)", "+37.50 (n=1)")
    assert row(table, "s42", "measured") == ("not run",) * 3
    assert row(table, "mean (n=3)", PASS_RATE) == (
        "31.25 [12.50, 50.00] (n=2)", "12.50 [12.50, 12.50] (n=2)", "+18.75 [+0.00, +37.50] (n=2)",
    )  # fmt: skip


def test_a_frozen_model_and_its_panels(chains, write_run):
    capabilities = {"cpp": {"start": 0.2, "peak": 0.3, "end": 0.4}}
    trained = chains(("w3-7b", "A0", 17, [FALL, RISE]), capabilities=capabilities)
    frozen = write_run("runs/frozen", [(0.4,)], name="w3-32b", capabilities=capabilities)
    found = collect([*trained, load_run(frozen)])
    table = TABLES[13](found)
    assert row(table, "Qwen2.5-7B base", REPORT) == ("50.0 ± 7.5",)
    assert row(table, "Qwen2.5-7B + naive 5 campaigns", REPORT) == ("60.0 ± 9.0",)
    assert row(table, "Qwen2.5-32B-Instruct (frozen)", REPORT) == ("40.0 ± 6.0",)
    assert "Report panel: 12 problems x 8 samples." in table.notes
    shown = row(TABLES[14](found), "7B + naive 5-camp", "held-out panels")
    assert [text.split()[0] for text in shown] == ["60.0", "40.0", "not"]
    assert shown[2] == "not measured"


@pytest.mark.parametrize(("cpp", "text"), [((0.4, 0.1), "✓"), ((0.1, 0.4), "–")])
def test_two_panels_may_disagree(chains, cpp, text):
    # On main, A3 is better by 0.1 or 0.3 on each problem, and by 0.2 on average.
    runs = []
    for condition, end, level in zip(("A0", "A3"), (0.4, 0.6), cpp, strict=True):
        levels = [(0.5, 0.5, end)]
        runs += chains(("w4", condition, 11, levels), capabilities={"cpp": {"end": level}})
    shown = row(TABLES[15](collect(runs)), "11", "held-out panels")
    assert shown[0] == "40.0 ± 6.0 / 60.0 ± 9.0"
    assert shown[2] == text


def test_the_cost_of_a_chain(chains):
    (run,) = chains(("w2-python", "B3", 17, [FALL, RISE]))
    plan = Plan(None, 4, 1e-3, 0.0)
    for campaign, answer in enumerate((None, Answer("lr 1e-3", time_s=3.0))):
        rundir.append_line(run.folder / rundir.PLANS, rundir.Planned(campaign, plan, answer))
    shown = row(TABLES[18](collect([run])), "CARE (B3, Wave-2 LLM-agent HPO)", "measured")
    # 9 steps of 0.5 s on one device; one answer of 3 s in two campaigns.
    assert shown == ("7 (n=1)", "0.001 CPU-hr (n=1)", "0.001 hr (n=1)", "1.0 (n=1)", "1.50 s (n=1)")


# --- Files ----------------------------------------------------------------------------------------


def test_the_same_table_in_three_forms(chains):
    found = collect(chains(("w7", "A0", 7, [FALL])))
    table = TABLES[6](found)
    lines = list(csv.reader(io.StringIO(to_csv(grid(table, repeat=True)))))
    assert lines[0] == ["Scale", "Method", "reading", "End pass@1 (%)", "n"]
    assert lines[2] == ["3B", "Qwen2.5-3B + Naive (end-ckpt)", PASS_RATE, "18.8 (n=1)", "1"]
    assert "|  |  | report panel | 10.0 ± 1.5 | 1 |" in markdown(table)
    text = latex(table)
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert r"End pass@1 (\%)" in text
    assert r"pass\_rate, mean of 5 steps & 18.8 (n=1) & 1 \\" in text
    assert differences(TABLES[1](found)) is None


def test_latex_breaks_long_cells(chains):
    wide = latex(TABLES[1](collect(chains(("table1-kl", "A0", 7, [FALL, RISE, CLIFF])))))
    assert r"\begin{tabular}[t]{@{}l@{}}pass\_rate, mean of \\{}5 steps\end{tabular}" in wide
    narrow = latex(TABLES[8](collect(chains(("w4", "A0", 7, [FALL, RISE])))))
    assert r" & pass\_rate, mean of 5 steps & " in narrow


def test_latex_shows_every_sign():
    text = "".join(latex(TABLES[number](PaperRuns())) for number in NUMBERS)
    assert text.isascii()


def test_figures_of_chains(chains, tmp_path):
    rising = tuple(np.linspace(0.2, 0.9, 8))
    wanted = [("w4-tiny", "A3", 7, [FALL, rising]), ("fig1-tiny", "A0", 7, [rising])]
    wanted += [("w4-tiny", "A0", seed, [FALL, CLIFF]) for seed in (7, 11)]
    console = Console(record=True, width=300)
    write_paper(chains(*wanted), tmp_path / "paper", console)
    assert "from 4 finished chains" in console.export_text()
    assert "Ours: not run" not in (tmp_path / "paper/tables.md").read_text(encoding="utf-8")
    for number in (1, 3):
        assert (tmp_path / f"paper/figure_{number}.png").stat().st_size > 20_000


def test_the_command_without_a_run(tmp_path):
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "selfreg.analysis", f"--runs={tmp_path}/runs"]
    result = subprocess.run([*command, f"--out={tmp_path}/out"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "from 0 finished chains" in result.stdout
    assert (tmp_path / "out/paper/table_18.tex").exists()
