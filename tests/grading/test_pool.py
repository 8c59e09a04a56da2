"""Test the pool: its order, its sharing, and its reaction when the grader itself fails."""

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from selfreg.grading import GraderError, GraderPool, ladder
from selfreg.grading.process import WorkerProcess
from selfreg.run.records import Language, Outcome

ADD = "def add(a, b):\n    return a + b\n"
SLOW_ADD = "import time\ntime.sleep(0.4)\n" + ADD


def mixed_jobs(make_problem, count):
    """Make distinct programs of three kinds, and their expected outcomes."""
    kinds = (
        (ADD, Outcome.PASSED),
        ("def add(a, b):\n    return a - b\n", Outcome.FAILED),
        ("import time\ntime.sleep(0.01)\nraise ValueError\n", Outcome.EXCEPTION),
    )
    jobs = [(make_problem(), f"{kinds[i % 3][0]}# {i}") for i in range(count)]
    return jobs, [kinds[i % 3][1] for i in range(count)]


def test_order_is_kept(pool, make_problem):
    jobs, outcomes = mixed_jobs(make_problem, 60)
    assert [grade.outcome for grade in pool.grade(jobs)] == outcomes


def test_no_jobs(pool):
    assert pool.grade([]) == []


def test_equal_jobs_share_a_grade(pool, make_problem):
    before = pool.counts["programs"]
    grades = pool.grade([(make_problem(), ADD), (make_problem(), None), (make_problem(), ADD)])
    assert [grade.outcome for grade in grades] == [
        Outcome.PASSED,
        Outcome.NO_CODE,
        Outcome.PASSED,
    ]
    assert grades[0] is grades[2]
    assert pool.counts["programs"] == before + 1


def test_a_program_is_judged_by_each_problem(pool, make_problem):
    other = make_problem(code="assert add(1, 1) == 3\n")
    grades = pool.grade([(make_problem(), ADD), (other, ADD)])
    assert [grade.outcome for grade in grades] == [Outcome.PASSED, Outcome.FAILED]


def test_threads_take_turns(pool, make_problem):
    failed = []

    def work(seed):
        jobs, outcomes = mixed_jobs(make_problem, 12)
        jobs = [(problem, f"{program} of {seed}") for problem, program in jobs]
        if [grade.outcome for grade in pool.grade(jobs)] != outcomes:
            failed.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_timeouts_are_counted_and_time_limits_scale(make_problem):
    with GraderPool(1, time_limit_scale=0.5) as pool:
        problem = make_problem(time_limit_s=0.4)
        started = time.monotonic()
        assert pool.grade([(problem, "while True: pass")])[0].time_s == pytest.approx(0.2, abs=0.1)
        assert time.monotonic() - started < 5.0
        assert pool.counts == {"programs": 1, "timeouts": 1, "retries": 0, "worker_restarts": 0}


def test_killed_processes_lose_no_result(make_problem, descendants):
    jobs, outcomes = mixed_jobs(make_problem, 100)
    jobs.append((make_problem(Language.CPP), "int add(int a, int b) { return a + b; }"))
    outcomes.append(Outcome.PASSED)
    others, folder = descendants(), Path(tempfile.gettempdir())
    before = set(os.listdir("/proc/self/fd")), set(folder.glob("selfreg-grader-*"))
    started = time.monotonic()
    with GraderPool(2, max_retries=1000) as pool:
        done, kills = threading.Event(), 0
        start_s = time.monotonic() - started  # the kills leave time for a start

        def kill():
            nonlocal kills
            chance = random.Random(0)
            while not done.wait(start_s * chance.uniform(0.2, 0.6)):
                # The victim may be a judge, a zygote or a program. No kill may change a verdict.
                for victim in chance.sample(sorted(descendants() - others), 1):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                        kills += 1

        killer = threading.Thread(target=kill)
        killer.start()
        wrong = []
        try:
            while kills <= 20 or pool.counts["worker_restarts"] <= 20 or not pool.counts["retries"]:
                pairs = zip(pool.grade(jobs), outcomes, strict=True)
                wrong += [pair for pair in pairs if pair[0].outcome is not pair[1]]
        finally:
            done.set()
            killer.join()
    assert wrong == []
    assert descendants() <= others
    after = set(os.listdir("/proc/self/fd")), set(folder.glob("selfreg-grader-*"))
    assert after[0] == before[0]
    assert not {path for path in after[1] - before[1] if _is_unlocked(path)}


def _is_unlocked(folder):
    """Return whether no pool holds this folder; a pool of another test may have made it."""
    try:
        with open(folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return False
    return True


def test_the_folder_of_a_killed_pool_is_removed_by_the_next(make_problem):
    code = (
        "import os, signal\nfrom selfreg.grading import GraderPool\n"
        "pool = GraderPool(1)\nprint(pool._folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    folder = Path(done.stdout.decode().strip())
    assert done.returncode == -signal.SIGKILL
    assert folder.is_dir()
    with GraderPool(1) as pool:
        assert not folder.exists()
        assert pool.grade([(make_problem(), ADD)])[0].outcome is Outcome.PASSED


def test_a_worker_killed_while_idle_is_replaced(make_problem, descendants):
    others = descendants()
    with GraderPool(1) as pool:
        for worker in descendants() - others:
            with contextlib.suppress(ProcessLookupError):  # the zygote ends with its judge
                os.kill(worker, signal.SIGKILL)
        assert pool.grade([(make_problem(), ADD)])[0].outcome is Outcome.PASSED
        assert pool.counts["worker_restarts"] == 1


def test_a_hung_worker_is_replaced(make_problem, descendants, monkeypatch):
    monkeypatch.setattr("selfreg.grading.pool._HUNG_EXTRA_S", 1.0)
    monkeypatch.setattr("selfreg.grading.pool._HUNG_FACTOR", 1.0)
    others = descendants()
    with GraderPool(1) as pool:
        for part in descendants() - others:
            os.kill(part, signal.SIGSTOP)
        assert pool.grade([(make_problem(), ADD)])[0].outcome is Outcome.PASSED
        assert pool.counts["retries"] == 1


def break_workers(monkeypatch, is_broken):
    """Make workers fail for a job if `is_broken(job)`, as if something killed them."""
    submit = WorkerProcess.submit

    def submit_or_break(self, task, job, *limits):
        if is_broken(job):
            os.killpg(self._process.pid, signal.SIGKILL)
        submit(self, task, job, *limits)

    monkeypatch.setattr(WorkerProcess, "submit", submit_or_break)


def test_a_program_that_ends_its_workers_has_its_verdict(make_problem, monkeypatch):
    break_workers(monkeypatch, lambda job: "evil" in job["program"])
    with GraderPool(2, max_retries=1) as pool:
        evil, good = pool.grade([(make_problem(), ADD + "# evil"), (make_problem(), ADD)])
        assert (evil.outcome, good.outcome) == (Outcome.EXCEPTION, Outcome.PASSED)
        assert "ended its worker 2 times: " in evil.detail
        assert pool.counts["retries"] == 1


@pytest.mark.parametrize("kind", ["functions", "script", "cpp"])
def test_a_grader_that_fails_on_any_program_says_so(make_problem, monkeypatch, kind):
    broken = True
    break_workers(monkeypatch, lambda job: broken)
    problem, program = {
        "functions": (make_problem(), ADD),
        "script": (make_problem(stdio=(("", "1"),)), "print(1)"),
        "cpp": (make_problem(Language.CPP), "int add(int a, int b) { return a + b; }"),
    }[kind]
    with GraderPool(1, max_retries=1) as pool:
        (grade,) = pool.grade([(problem, program)])
        assert grade.outcome is Outcome.INFRA_ERROR
        assert "no verdict after 2 tries" in grade.detail
        with pytest.raises(ValueError, match="no verdict"):
            grade.reward  # noqa: B018
        with pytest.raises(GraderError, match="the solution of test/0 has no verdict"):
            pool.validate([replace(problem, solution=program)])
        broken = False  # the pool recovers
        assert pool.grade([(problem, program)])[0].outcome is Outcome.PASSED


def test_workers_that_do_not_start_are_an_error(make_problem, monkeypatch):
    with GraderPool(1, max_retries=1) as pool:
        break_workers(monkeypatch, lambda job: True)
        monkeypatch.setattr("selfreg.grading.boot.FOLDER", "/nonexistent")
        with pytest.raises(GraderError, match="do not start"):
            pool.grade([(make_problem(), ADD)])


def test_a_call_ends_in_time_whatever_happens(make_problem, monkeypatch):
    with GraderPool(2) as pool:
        jobs = [(make_problem(time_limit_s=99.0), "import time\ntime.sleep(99)\n")]
        jobs += [(make_problem(), ADD)]
        assert 600.0 < pool._most_s(jobs) < 20000.0
        monkeypatch.setattr(pool, "_most_s", lambda tasks: 1.0)
        grades = pool.grade(jobs)
        assert [grade.outcome for grade in grades] == [Outcome.INFRA_ERROR, Outcome.PASSED]
        assert "in the time that a call may take" in grades[0].detail
        assert pool.grade(jobs[1:])[0].outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ({"code": "assert ("}, "does not parse"),
        ({"code": "assert undefined_name(1) == 1"}, "want undefined_name, not add"),
        ({"code": "while True: pass"}, "use nothing"),
        ({"code": "import numpy\nassert add(1, 1) == 2"}, "need the module numpy"),
        ({"code": "assert add(1, 1) == 2", "setup": "import no_such_module"}, "set-up fails"),
    ],
)
def test_broken_tests_are_no_verdict_on_a_program(pool, make_problem, tests, why):
    problem = make_problem(**tests)
    for program in (ADD, "def add(a, b):\n    return None\n"):
        (grade,) = pool.grade([(problem, program)])
        assert grade.outcome is Outcome.TEST_ERROR
        assert why in grade.detail
        with pytest.raises(ValueError, match="no verdict"):
            grade.reward  # noqa: B018


def test_validation_finds_the_solutions_that_do_not_pass(make_problem):
    good, bad, none = (
        replace(make_problem(), id=name, solution=solution)
        for name, solution in (("good", ADD), ("bad", "def add(a, b): return 7"), ("none", None))
    )
    with GraderPool(1) as pool:
        assert list(pool.validate([good, bad, none])) == ["bad"]
        grades = pool.grade([(good, ADD), (bad, ADD), (none, ADD), (bad, None)])
    wanted = [Outcome.PASSED, Outcome.TEST_ERROR, Outcome.PASSED, Outcome.NO_CODE]
    assert [grade.outcome for grade in grades] == wanted


def test_tests_that_a_solution_passed_are_not_to_blame(make_problem):
    code = "if add(1, 1) != 2: import no_such_module\nassert add(1, 1) == 2\n"
    problem = replace(make_problem(code=code), solution=ADD)
    wrong = "def add(a, b):\n    return 3\n"
    with GraderPool(1) as pool:
        assert pool.grade([(problem, wrong)])[0].outcome is Outcome.TEST_ERROR
        assert pool.validate([problem]) == {}
        assert pool.grade([(problem, wrong)])[0].outcome is Outcome.EXCEPTION


def test_tests_that_do_not_end_on_an_answer_are_a_timeout(make_problem, monkeypatch):
    monkeypatch.setattr("selfreg.grading.pool._JUDGE_EXTRA_S", 0.5)
    loops = make_problem(code="while add(1, 1) != 2: pass\n" + "assert add(1, 1) == 2\n")
    in_c = make_problem(code="assert add(2, 2) ** add(2, 2) == 256\n")
    with GraderPool(2) as pool:
        grades = pool.grade(
            [
                (loops, "def add(a, b): return 3"),
                (in_c, "def add(a, b): return 10**9"),
                (in_c, ADD),
            ]
        )
    wanted = [Outcome.TIMEOUT, Outcome.TIMEOUT, Outcome.PASSED]
    assert [grade.outcome for grade in grades] == wanted


def test_an_interrupted_call_does_not_answer_the_next(make_problem, monkeypatch):
    with GraderPool(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(pool, "_responsive", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                pool.grade([(make_problem(), SLOW_ADD), (make_problem(), ADD)])
        jobs, outcomes = mixed_jobs(make_problem, 6)
        assert [grade.outcome for grade in pool.grade(jobs)] == outcomes


def test_workers_are_recycled(make_problem, descendants):
    others = descendants()
    with GraderPool(1, recycle_after=3) as pool:
        first = descendants() - others
        jobs, outcomes = mixed_jobs(make_problem, 10)
        assert [grade.outcome for grade in pool.grade(jobs)] == outcomes
        assert not first & descendants()
        assert pool.counts["worker_restarts"] == 0


def test_what_does_not_hold_is_refused(monkeypatch):
    monkeypatch.setitem(ladder.LAYERS, "no such layer", ladder.Layer("nothing", "pass"))
    needed = {name: (*layers, "no such layer") for name, layers in ladder.NEEDED.items()}
    monkeypatch.setattr(ladder, "NEEDED", needed)
    with pytest.raises(GraderError, match="landlock: no such layer does not hold") as refused:
        GraderPool(1)
    assert all(f"{isolation}: " in str(refused.value) for isolation in ladder.LADDER)
    monkeypatch.setitem(needed, "weak", ("rlimits",))
    with GraderPool(1, allow_weak=True) as pool:
        assert pool.isolation == "weak"


def test_nothing_is_left_after_close(make_problem, descendants):
    def open_files():
        return set(os.listdir("/proc/self/fd"))

    def folders():
        return set(Path(tempfile.gettempdir()).glob("selfreg-grader-*"))

    processes, files, before = descendants(), open_files(), folders()
    pool = GraderPool(2)
    ours = folders() - before
    assert ours
    jobs = [
        (make_problem(), ADD),
        (make_problem(Language.CPP), "int add(int a, int b) { return 5; }"),
    ]
    pool.grade(jobs)
    pool.close()
    pool.close()
    assert descendants() <= processes
    assert open_files() == files
    assert not ours & folders()
    with pytest.raises(GraderError, match="closed"):
        pool.grade(jobs)


def test_closing_ends_what_runs(make_problem, descendants):
    def interrupt(*_):
        raise KeyboardInterrupt

    processes = descendants()
    jobs = [(make_problem(time_limit_s=60.0), "import time\ntime.sleep(60)\n")]
    # The second job is a running compiler, which has child processes of its own.
    jobs.append((make_problem(Language.CPP), "#include <bits/stdc++.h>\n" * 2))
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        with GraderPool(2) as pool:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                pool.grade(jobs)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert descendants() <= processes


@pytest.mark.parametrize(
    "setting",
    [{"workers": -1}, {"max_retries": -1}, {"recycle_after": 0}, {"time_limit_scale": 0.0}],
)
def test_bad_settings(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        GraderPool(**setting)
