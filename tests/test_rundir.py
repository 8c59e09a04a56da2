"""The run folder: writing and reading, dropping torn lines, and refusing other configs."""

import json
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from selfreg.run import rundir
from selfreg.run.events import EventFile
from selfreg.run.records import (
    Checkpoint,
    FinishReason,
    Grade,
    Group,
    Outcome,
    PanelScore,
    Plan,
    Problem,
    Rollout,
    StepRecord,
)
from selfreg.run.records import (
    Tests as ProblemTests,
)
from selfreg.run.runlog import RunLog, check_same_config, open_run

CONFIG = {"seed": 1, "optimizer": {"lr": 1e-6}}


def record(campaign, step, **metrics):
    return StepRecord(campaign, step, {"pass_rate": 0.1, **metrics}, (1 / 3, 0.25))


def summary(campaign):
    scores = {"start": PanelScore(("a", "b"), np.array([0.25, 1 / 3]), 4)}
    plan = Plan(Checkpoint(0, 3), 8, 1e-6, 0.0, "why")
    return rundir.CampaignSummary(campaign, plan, 2, 5, scores, Checkpoint(0, 5), {"peak": 2})


def test_records_and_summaries_round_trip_exactly(tmp_path):
    with open_run(tmp_path, CONFIG, {}) as log:
        log.begin_campaign(0, 0)
        for step in range(3):
            log.append(record(0, step, loss=0.1 + 1e-17, grad_norm=1 / 3))
        log.finish_campaign(summary(0), {})
    assert rundir.read_records(tmp_path) == [
        record(0, step, loss=0.1 + 1e-17, grad_norm=1 / 3) for step in range(3)
    ]
    (back,) = rundir.read_summaries(tmp_path)
    assert (back.plan, back.kept) == (summary(0).plan, summary(0).kept)
    assert back.scores["start"].pass_rates.tolist() == [0.25, 1 / 3]
    assert back.scores["start"].problem_ids == ("a", "b")


def test_records_of_before_rates_by_problem_can_be_read(tmp_path):
    (tmp_path / rundir.METRICS).write_text('{"campaign": 0, "step": 1, "metrics": {"loss": 0.5}}\n')
    assert rundir.read_records(tmp_path) == [StepRecord(0, 1, {"loss": 0.5})]


@pytest.mark.parametrize("whole", [0, 2])
def test_a_line_takes_the_place_of_a_torn_one(whole, tmp_path):
    file = tmp_path / "lines.jsonl"
    for number in range(whole):
        rundir.append_line(file, {"n": number})
    with file.open("a") as opened:
        opened.write('{"n": "tor')
    rundir.append_line(file, {"n": "new"})
    rundir.append_line(file, {"n": "last"})
    assert [row["n"] for row in rundir.read_lines(file)] == [*range(whole), "new", "last"]


def test_resuming_forgets_what_comes_after_and_torn_lines(tmp_path):
    with open_run(tmp_path, CONFIG, {}) as log:
        log.begin_campaign(0, 0)
        for step in range(4):
            log.append(record(0, step))
    with (tmp_path / rundir.METRICS).open("a") as file:
        file.write('{"campaign": 0, "step": 4, "met')
    with open_run(tmp_path, CONFIG, {}) as log:
        assert [r.step for r in log.begin_campaign(0, 2)] == [0, 1]
        log.append(record(0, 2, again=1.0))
    assert [r.step for r in rundir.read_records(tmp_path)] == [0, 1, 2]
    assert len(json.loads((tmp_path / rundir.MANIFEST).read_text())["starts"]) == 2


def test_a_line_that_is_broken_in_the_middle_is_an_error_with_its_number(tmp_path):
    (tmp_path / rundir.METRICS).write_text('{"campaign": 0}\nnonsense\n{"campaign": 1}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        rundir.read_records(tmp_path)


def test_non_finite_metrics_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        rundir.append_line(tmp_path / rundir.METRICS, record(0, 0, loss=float("nan")))


def test_two_processes_cannot_write_to_one_folder(tmp_path):
    with (
        open_run(tmp_path, CONFIG, {}),
        pytest.raises(ValueError, match="in use by another process"),
        open_run(tmp_path, CONFIG, {}),
    ):
        pass


def test_another_config_is_refused_with_the_key(tmp_path):
    with open_run(tmp_path, CONFIG, {}):
        pass
    other = CONFIG | {"optimizer": {"lr": 2e-6}}
    with (
        pytest.raises(ValueError, match=r"optimizer.lr: 1e-06 there, 2e-06 now"),
        open_run(tmp_path, other, {}),
    ):
        pass


def test_a_key_that_no_longer_is_differs_only_if_it_was_on(tmp_path):
    (tmp_path / rundir.CONFIG).write_text(json.dumps({"seed": 7, "optimizer": {"gone": False}}))
    check_same_config(tmp_path, {"seed": 7})
    (tmp_path / rundir.CONFIG).write_text(json.dumps({"seed": 7, "optimizer": {"gone": True}}))
    with pytest.raises(ValueError, match=r"optimizer.gone: True there, None now"):
        check_same_config(tmp_path, {"seed": 7})


def test_completions_are_readable_without_us(tmp_path):
    rollout = Rollout(
        prompt_ids=np.array([1, 2], np.int32),
        completion_ids=np.array([3], np.int32),
        logprobs=np.array([-0.5], np.float32),
        text="x = '\u2028<script>'",
        finish_reason=FinishReason.STOP,
        alter_ids=np.array([[3, 4]], np.int32),
        alter_logprobs=np.array([[-0.5, -1.5]], np.float32),
    )
    problem = Problem("p/1", "", ProblemTests(code="pass"))
    group = Group(problem, (rollout,), ("x = 1",), (Grade(Outcome.EXCEPTION, 0.25, "why"),))
    file = rundir.completions_file(tmp_path, 1, 20, "train")
    rundir.write_completions(file, [group])
    (row,) = pq.read_table(file).to_pylist()
    assert row["problem_id"] == "p/1"
    assert row["prompt_ids"] == [1, 2]
    assert row["outcome"] == "exception"
    assert row["reward"] == 0.0
    assert row["alter_ids"] == [[3, 4]]
    assert row["text"] == rollout.text


def test_rates_by_problem_come_from_the_panels_completions_where_a_record_lacks_them(tmp_path):
    def group(name, *outcomes):
        problem = Problem(name, "", ProblemTests(code="pass"))
        rollout = Rollout(
            *[np.zeros(1, np.int32)] * 2, np.zeros(1, np.float32), "", FinishReason.STOP
        )
        n = len(outcomes)
        return Group(problem, (rollout,) * n, ("x",) * n, tuple(Grade(each) for each in outcomes))

    passed, failed = Outcome.PASSED, Outcome.FAILED
    groups = [
        group("b", passed, failed, failed, failed),
        group("a", passed, passed, passed, failed),
    ]
    rundir.write_completions(rundir.completions_file(tmp_path, 0, 4, "panel"), groups)
    bare = StepRecord(0, 4, {"panel_pass_at_1": 0.5})
    assert rundir.with_rates(tmp_path, bare).rates == (0.25, 0.75)
    whole = StepRecord(0, 4, {}, (0.1, 0.2))
    assert rundir.with_rates(tmp_path, whole) == whole
    unmeasured = StepRecord(0, 5, {})
    assert rundir.with_rates(tmp_path, unmeasured) == unmeasured


def test_tensorboard_holds_the_metrics(tmp_path):
    from tensorboardX.proto import event_pb2

    with open_run(tmp_path, CONFIG, {}) as log:
        log.begin_campaign(0, 0)
        log.append(record(0, 0, loss=0.5))
    (file,) = (tmp_path / rundir.TENSORBOARD).iterdir()
    data, found = file.read_bytes(), {}
    while data:  # a record: length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found |= {value.tag: value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    assert found["loss"] == 0.5
    assert found["pass_rate"] == pytest.approx(0.1)


def test_an_event_file_is_what_tensorboard_reads(tmp_path):
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c, u32

    for step, values in ((300, {"a": 0.25, "ä/b": 1e300}), (2**40, {"a": float("nan")})):
        with EventFile(tmp_path / str(step), purge_step=step) as file:
            file.scalars(values, step)
        (written,) = (tmp_path / str(step)).iterdir()
        assert ".out.tfevents." in written.name
        data, events = written.read_bytes(), []
        while data:
            length = int.from_bytes(data[:8], "little")
            event, rest = data[12 : 12 + length], data[12 + length :]
            assert u32(masked_crc32c(data[:8])) == int.from_bytes(data[8:12], "little")
            assert u32(masked_crc32c(event)) == int.from_bytes(rest[:4], "little")
            events.append(event_pb2.Event.FromString(event))
            data = rest[4:]
        version, start, *scalars = events
        assert version.file_version == "brain.Event:2"
        assert (start.step, start.session_log.status) == (step, event_pb2.SessionLog.START)
        assert all(abs(event.wall_time - time.time()) < 600 for event in events)
        for event, (name, number) in zip(scalars, values.items(), strict=True):
            (value,) = event.summary.value
            assert (event.step, value.tag) == (step, name)
            np.testing.assert_equal(np.float32(value.simple_value), np.array(number, "f4"))


def test_failed_batches_are_kept(tmp_path):
    from selfreg.algorithms.parts.batch import Batch

    arrays = {name: np.arange(3) for name in Batch.__slots__}
    file = RunLog(tmp_path).save_batch(Batch(**arrays))
    assert sorted(np.load(file)) == sorted(Batch.__slots__)
