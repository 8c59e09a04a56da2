"""A pool's folder among the temporary files, which does not outlive it even where it is killed."""

import contextlib
import fcntl
import os
import tempfile

from selfreg.grading.system import empty_folder

_PREFIX, _LOCK = "selfreg-grader-", "lock"


def make_folder() -> tuple[str, int]:
    """A folder for a pool, and a lock in it; those of pools that were killed are removed."""
    parent = tempfile.gettempdir()
    for name in os.listdir(parent):
        if name.startswith(_PREFIX):
            _remove_stale(os.path.join(parent, name))
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    claim = os.open(os.path.join(folder, _LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(claim, fcntl.LOCK_EX)
    return folder, claim


def _remove_stale(folder: str) -> None:
    # Whoever lives holds its lock. No lock: another is about to make one, or it is not ours.
    with contextlib.suppress(OSError):
        claim = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(claim)
            return
        remove_folder(folder, claim)


def remove_folder(folder: str, claim: int) -> None:
    """Remove a pool's folder and release its lock."""
    empty_folder(folder)
    os.rmdir(folder)
    os.close(claim)
