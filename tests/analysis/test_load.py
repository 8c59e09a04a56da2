import json

import numpy as np
import pytest

from selfreg.analysis.load import (
    checkpoint_of_origin,
    find_runs,
    label_runs,
    load_run,
    passed_counts,
    report_completions,
)
from selfreg.run.records import Checkpoint
from selfreg.run.rundir import CONFIG, METRICS


def test_a_finished_run(write_run):
    folder = write_run("run", [[0.25, 0.5, 0.0], [0.0, 0.0]])
    run = load_run(folder)
    assert (run.condition, run.seed, run.finished, run.updates) == ("A0", 7, True, 3)
    assert [len(trace.records) for trace in run.traces] == [3, 2]
    assert [summary.end_step for summary in run.summaries] == [2, 1]
    assert run.summaries[0].scores["peak"].pass_at_1 == pytest.approx(0.5)


def test_an_unfinished_run(write_run):
    run = load_run(write_run("run", [[0.3, 0.4, 0.4], [0.4, 0.4, 0.4]], finished=1))
    assert (run.finished, run.updates, len(run.traces), len(run.summaries)) == (False, 4, 2, 1)


def test_a_torn_line_is_dropped(write_run):
    folder = write_run()
    with (folder / METRICS).open("a") as file:
        file.write('{"campaign": 1, "st')
    assert len(load_run(folder).traces) == 1


def test_find_runs_below_a_folder(write_run, tmp_path):
    folders = [write_run("runs/tiny/ES/seed_7", condition="ES"), write_run("runs/tiny/A0/seed_7")]
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / METRICS).touch()  # a folder without a config is not a run
    assert find_runs(tmp_path / "runs") == sorted(folders)
    assert find_runs(folders[0]) == [folders[0]]


def test_folders_without_a_readable_run_are_refused(write_run, tmp_path):
    with pytest.raises(ValueError, match="not a folder"):
        find_runs(tmp_path / "absent")
    with pytest.raises(ValueError, match="no run in"):
        find_runs(tmp_path)
    with pytest.raises(ValueError, match="not a run folder"):
        load_run(tmp_path)
    folder = write_run()
    (folder / METRICS).write_text("")
    with pytest.raises(ValueError, match="no step yet"):
        load_run(folder)
    (folder / METRICS).write_text('{"campaign": 0}\n')
    with pytest.raises(ValueError, match="another version"):
        load_run(folder)
    (folder / METRICS).write_text("nonsense\n")
    with pytest.raises(ValueError, match="line 1"):
        load_run(folder)
    other = write_run("other")
    (other / CONFIG).write_text(json.dumps({"seed": 7}))
    with pytest.raises(ValueError, match="another version"):
        load_run(other)
    (other / CONFIG).write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_run(other)


def test_passed_counts_are_those_of_the_training_groups(write_run):
    run = load_run(write_run("run", [[0.25, 0.5, 0.0], [0.0, 0.0]]))
    assert passed_counts(run, 0).tolist() == [4, 8]
    assert passed_counts(run, 1).tolist() == [0]
    bare = load_run(write_run("bare", completions=False))
    assert passed_counts(bare, 0).dtype == np.int64
    assert not len(passed_counts(bare, 0))


def test_a_campaigns_start_resolves_to_the_checkpoint_that_made_it(write_run):
    # Campaigns 1 and 2 peak at their starts, which are campaign 0's peak.
    levels = [[0.3, 0.5, 0.2], [0.5, 0.4, 0.3], [0.5, 0.4]]
    run = load_run(write_run("run", levels, condition="ES"))
    assert checkpoint_of_origin(run, Checkpoint(2, 0)) == Checkpoint(0, 1)
    assert checkpoint_of_origin(run, Checkpoint(1, 2)) == Checkpoint(1, 2)
    assert checkpoint_of_origin(run, Checkpoint(0, 0)) is None
    assert report_completions(run, Checkpoint(2, 0)) == report_completions(run, Checkpoint(0, 1))
    assert report_completions(run, None)[0]["problem_id"] == "main/0"


def test_labels_name_the_config_only_if_the_names_differ(write_run):
    a, b = load_run(write_run("a")), load_run(write_run("b", condition="ES"))
    c = load_run(write_run("c", name="grpo"))
    assert label_runs([a, b]) == ["A0", "ES"]
    assert label_runs([a, b, c]) == ["tiny/A0", "tiny/ES", "grpo/A0"]
