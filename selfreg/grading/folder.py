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
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        claim = _claim(folder)
        if claim is not None:
            os.chmod(folder, 0o711)  # programs may be another user's
            return folder, claim


def _claim(folder: str) -> int | None:
    """Lock a new folder; None where another pool took it for a stale one first, and removed it."""
    try:
        claim = os.open(os.path.join(folder, _LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    fcntl.flock(claim, fcntl.LOCK_EX)
    if os.fstat(claim).st_nlink:
        return claim
    os.close(claim)
    return None


def _remove_stale(folder: str) -> None:
    """Remove a folder whose lock nobody holds. Its maker may be about to: see `_claim`."""
    try:
        claim = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        with contextlib.suppress(OSError):  # not ours, or no longer empty
            os.rmdir(folder)
        return
    except OSError:
        return
    with contextlib.suppress(OSError):
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)
    os.close(claim)


def remove_folder(folder: str, claim: int) -> None:
    """Remove a pool's folder and release its lock."""
    _remove(folder)
    os.close(claim)


def _remove(folder: str) -> None:
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            empty_folder(entry.path)
            os.rmdir(entry.path)
    # Last, so that a removal that is interrupted can be gone on with; by another pool, too.
    os.unlink(os.path.join(folder, _LOCK))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(folder)
