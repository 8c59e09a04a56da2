"""Test the folders of pools: a new one is never taken for a stale one, and none is left behind."""

import fcntl
import os
import subprocess
import sys
import tempfile

import pytest

from selfreg.grading import folder


def is_locked(path):
    with open(os.path.join(path, "lock")) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@pytest.mark.parametrize("moment", ["folder", "lock"])
def test_another_pool_starts_while_a_folder_is_made(moment, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    others = []

    def interrupted(function):
        def call(*args, **options):
            result = None if moment == "lock" else function(*args, **options)
            if not others:
                others.append(None)  # only the first call starts another pool
                others[:] = [folder.make_folder()]
            return function(*args, **options) if moment == "lock" else result

        return call

    if moment == "lock":
        monkeypatch.setattr(fcntl, "flock", interrupted(fcntl.flock))
    else:
        monkeypatch.setattr(tempfile, "mkdtemp", interrupted(tempfile.mkdtemp))
    made, claim = folder.make_folder()
    made_by_other, other_claim = others[0]
    assert is_locked(made)
    assert is_locked(made_by_other)
    folder.remove_folder(made, claim)
    folder.remove_folder(made_by_other, other_claim)
    assert list(tmp_path.iterdir()) == []


def test_many_start_at_the_same_moment(tmp_path):
    code = (
        "import os, sys\nfrom selfreg.grading.folder import make_folder, remove_folder\n"
        "sys.stdin.read()\n"
        "for _ in range(60):\n"
        "    folder, claim = make_folder()\n"
        "    os.mkdir(os.path.join(folder, 'cpp'))\n"
        "    remove_folder(folder, claim)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for _ in range(4)
    ]
    for maker in makers:
        maker.stdin.close()
    errors = [maker.stderr.read().decode() for maker in makers]
    assert [maker.wait() for maker in makers] == [0] * 4, errors
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_pool_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    empty, full = (tempfile.mkdtemp(prefix="selfreg-grader-") for _ in range(2))
    os.mkdir(os.path.join(full, "cpp"))
    open(os.path.join(full, "lock"), "w").close()
    made, claim = folder.make_folder()
    assert not os.path.exists(empty)
    assert not os.path.exists(full)
    folder.remove_folder(made, claim)
