"""Following logs over time, changes of files, and the command as users run it."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfreg import guard
from selfreg.integrations.audit.files import read_logs
from selfreg.integrations.watch import plan
from selfreg.integrations.watch.follow import Followed, alone, take, words
from selfreg.integrations.watch.source import Source, is_panel_file, merge, read, stamp

ROOT = Path(__file__).parents[2]
LOG = guard.Settings(source=guard.Source.LOG, planned_steps=240)


def rewards(steps=240, change=160, fall=0.5, seed=0):
    """Draw mean rewards that stay at 0.7 and then fall."""
    rng = np.random.default_rng(seed)
    return np.where(np.arange(steps) < change, 0.7, 0.7 - fall) + rng.normal(0, 0.04, steps)


def verl(step, value):
    return f"step:{step} - actor/entropy:0.5 - critic/score/mean:{value:.6f} - perf/mfu:0.3\n"


def trl(step, value):
    return "{'loss': 0.01, 'reward': %.6f, 'epoch': %.3f}\n" % (value, step / 100)  # noqa: UP031


def core_alarm(values, settings=LOG):
    """Return the step at which the guard alarms on the whole log, counted from 1."""
    state = guard.start(settings)
    for step, value in enumerate(values, 1):
        state, decision = guard.observe(state, guard.Logged(step, float(f"{value:.6f}")))
        if decision.verdict is guard.Verdict.ALARM:
            return step
    return None


def logged(values, first=1):
    return {s: guard.Logged(s, float(v)) for s, v in enumerate(values, first)}


# --- Changes of files -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["console", "lines"])
def test_a_growing_log_alarms_at_the_same_step_as_the_whole_log(form, tmp_path):
    values = rewards()
    file = tmp_path / ("train.log" if form == "console" else "metrics.jsonl")
    lines = [
        verl(s, v) if form == "console" else json.dumps({"step": s, "reward": round(v, 6)}) + "\n"
        for s, v in enumerate(values, 1)
    ]
    text, run, source = "".join(lines), Followed(LOG), Source(file)
    cuts = [*range(2000, len(text), 997), len(text)]  # in the middle of lines and of numbers
    for cut in cuts:
        file.write_text(text[:cut])
        run = take(run, {"log": read(source, is_final=False)})
        if run.alarm_step is not None:
            break
    assert run.alarm_step == core_alarm(values)
    assert 160 < run.alarm_step < 180
    assert run.decision.reference <= 170


def test_a_truncated_number_is_not_used(tmp_path):
    file = tmp_path / "train.log"
    file.write_text(verl(1, 0.75) + verl(2, 0.75)[:-22])
    assert read(Source(file), is_final=False) == logged([0.75])
    assert len(read(Source(file), is_final=True)) == 2


def test_the_last_of_consecutive_runs_is_watched_and_parallel_runs_are_refused(tmp_path):
    file = tmp_path / "train.log"
    file.write_text(verl(1, 0.5) + verl(2, 0.5) + verl(1, 0.75) + verl(2, 0.25))
    assert read(Source(file), is_final=True) == logged([0.75, 0.25])
    table = tmp_path / "export.csv"
    table.write_text("Step,a - train/reward,b - train/reward\n0,0.5,0.25\n1,0.5,0.25\n")
    with pytest.raises(ValueError, match=r"holds 2 runs.*--column"):
        read(Source(table), is_final=True)
    assert read(Source(table, "b - train/reward"), is_final=True) == logged([0.25, 0.25], 0)


@pytest.mark.parametrize(
    ("said", "then"),
    [
        (logged([0.1, 0.2, 0.3]), logged([0.1, 0.2, 0.3])),  # unchanged
        (logged([0.1, 0.2, 0.3, 0.4]), logged([0.1, 0.2, 0.3, 0.4])),  # grown
        (logged([0.4, 0.5], 4), logged([0.1, 0.2, 0.3, 0.4, 0.5])),  # rotated
        (logged([0.9], 2), logged([0.1, 0.9])),  # resumed from step 1, in a new file
        (logged([0.9]), logged([0.9])),  # truncated: another run
        ({}, logged([0.1, 0.2, 0.3])),  # empty during a rotation
    ],
)
def test_a_log_replaces_earlier_observations_from_its_first_step_on(said, then):
    assert merge(logged([0.1, 0.2, 0.3]), said) == then


def test_a_replaced_run_is_watched_from_its_start():
    fallen = take(Followed(LOG), {"log": logged(rewards(steps=150))})
    again = take(fallen, {"log": logged(rewards(seed=1))})
    whole = take(Followed(LOG), {"log": logged(rewards(seed=1))})
    assert again.alarm_step == whole.alarm_step is not None
    assert again.points == whole.points


def test_a_stamp_changes_with_every_write_and_a_missing_file_has_none(tmp_path):
    file = tmp_path / "train.log"
    assert stamp(file) is None
    file.write_text("a")
    first = stamp(file)
    file.write_text("ab")
    assert stamp(file) != first
    assert stamp(tmp_path).files == 1


# --- Panels ---------------------------------------------------------------------------------------


def panel_rates(looks=24, change=12, fall=0.3):
    rng = np.random.default_rng(0)
    rates = np.tile(rng.beta(3, 2, 64), (looks, 1))
    rates[change:] = np.clip(rates[change:] - fall, 0, 1)
    return rng.binomial(4, rates) / 4


def test_a_panel_as_lines_and_as_parquet_say_the_same(tmp_path):
    rates = panel_rates(looks=3)
    lines, table = tmp_path / "panel.jsonl", tmp_path / "panel.parquet"
    looks = [guard.Look(10 * i, row.tolist()) for i, row in enumerate(rates)]
    guard.history.write(lines, looks)
    rows = [
        {"step": look.step, "problem": f"{i:03}", "reward": reward}
        for look in looks
        for i, rate in enumerate(look.rates)
        for reward in (rate - 0.1, rate + 0.1)  # two samples
    ]
    pq.write_table(pa.Table.from_pylist(rows), table)
    assert is_panel_file(lines)
    assert is_panel_file(table)
    log = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist([{"step": 1, "reward": 0.5}]), log)
    assert not is_panel_file(log)
    a, b = (read(Source(file, is_panel=True), is_final=True) for file in (lines, table))
    assert list(a) == list(b) == [0, 10, 20]
    np.testing.assert_allclose(a[20].rates, b[20].rates)


@pytest.mark.parametrize(
    "line", ["{}", '{"step": 1}', '{"step": 1.5, "rates": [1]}', '{"step": 1, "rates": []}', "[1]",
             '{"step": 1, "rates": [NaN]}', '{"step": true, "rates": [1]}'],
)  # fmt: skip
def test_a_line_that_is_not_an_observation_is_named(line, tmp_path):
    file = tmp_path / "panel.jsonl"
    file.write_text('{"step": 0, "rates": [0.5]}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"panel.jsonl, line 2 is not an observation"):
        read(Source(file, is_panel=True), is_final=True)


def test_beside_a_log_the_panel_alarms_sooner_and_the_words_say_by_how_much():
    both = guard.Settings(source=guard.Source.BOTH, planned=24, planned_steps=240)
    looks = {10 * i: guard.Look(10 * i, row.tolist()) for i, row in enumerate(panel_rates())}
    log = logged(rewards(change=120, fall=0.25), 0)
    run = take(Followed(both), {"log": log, "panel": looks})
    assert run.alarm_step == 120
    assert alone(run).startswith("The log alone alarms at step 1")
    assert "worse than at step" in words(run)


# --- The command ----------------------------------------------------------------------------------


def command(*arguments, **others):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "selfreg.watch", *map(str, arguments)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **others,
    )  # fmt: skip


def test_a_live_console_stops_its_trainer_with_exit_code_3(tmp_path):
    """One run covers a late start, appending, a command, a stop file, a web hook and the page."""
    told = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    values, file = rewards(), tmp_path / "train.log"
    # Use a host address, so that a proxy in the environment does not apply.
    watching = command(
        file, "--planned=240", "--every_s=0.05", f"--stop_file={tmp_path / 'STOP'}",
        f"--on_alarm=printenv SELFREG_ALARM > {tmp_path / 'facts.json'}", f"--out={tmp_path}",
        f"--webhook=http://127.0.0.1:{server.server_port}/",
    )  # fmt: skip
    # The trainer checks for the stop file after every step.
    with file.open("w", buffering=1) as trainer:
        for step, value in enumerate(values, 1):
            trainer.write(verl(step, value))
            time.sleep(0.001)
    out, error = watching.communicate(timeout=120)
    server.shutdown()
    assert watching.returncode == 3, error
    expected = core_alarm(values)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["alarm_step"] == expected
    assert facts == json.loads((tmp_path / "train.log.watch.json").read_text()) == told[0]
    assert f"The policy at step {expected} is worse than at step {facts['reference']}" in out
    assert (tmp_path / "STOP").read_text().strip() == facts["text"]
    page = (tmp_path / "train.log.watch.html").read_text()
    assert facts["text"] in page
    assert "data:image/svg+xml" in page


def test_once_exits_with_the_code_of_the_alarm(tmp_path):
    fallen, still, broken = (tmp_path / f"{n}.jsonl" for n in ("fallen", "still", "broken"))
    for file, values in ((fallen, rewards()), (still, rewards(fall=0.0))):
        file.write_text(
            "".join(json.dumps({"step": s, "reward": v}) + "\n" for s, v in enumerate(values))
        )
    broken.write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 2}\n')
    events = tmp_path / "tensorboard"
    started = [command(fallen, "--once", f"--tensorboard={events}")]
    started += [command(f, "--once") for f in (still, broken, tmp_path / "none.log")]
    started.append(command("--plan", "--problems=40", "--samples=4", "--planned_looks=20"))
    ended = [(*process.communicate(timeout=240), process.returncode) for process in started]
    assert [code for *_, code in ended] == [3, 0, 2, 2, 0], ended
    assert "no evidence that the policy is worse" in ended[1][0]
    assert "broken.jsonl" in ended[2][1]
    assert "no such file" in ended[3][1]
    assert "a fall of 0.4 is found after 1 looks" in ended[4][0]
    (run,) = events.iterdir()
    (written,) = read_logs(run, "guard/log_evidence")
    assert written.values[-1] >= 0 > written.values[-2]


def test_a_plan_for_a_small_log_finds_little():
    settings = guard.Settings(source=guard.Source.LOG, planned_steps=80)
    assert plan.plan(settings, 1, 16)[0.1][1] < 0.5
    found = plan.plan(guard.Settings(planned=20), 96, 4)
    assert found[0.4] == (1, 1.0)
    assert list(found) == [0.05, 0.1, 0.2, 0.4]
