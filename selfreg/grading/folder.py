"""Create and remove a pool's temporary folder, and remove those of pools that were killed."""

import contextlib
import fcntl
import os
import tempfile

from selfreg.grading.system import empty_folder

_PREFIX, _LOCK = "selfreg-grader-", "lock"


def make_folder() -> tuple[str, int]:
    """Make a folder for a pool and lock it, and remove the folders of pools that were killed.

    Returns:
      The folder's path, and the descriptor that holds its lock.
    """
    parent = tempfile.gettempdir()
    for name in os.listdir(parent):
        if name.startswith(_PREFIX):
            _remove_stale(os.path.join(parent, name))
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        claim = _claim(folder)
        if claim is not None:
            os.chmod(folder, 0o711)  # programs may run as another user
            return folder, claim


def _claim(folder: str) -> int | None:
    """Lock a new folder; return None if another pool removed it first, taking it for stale."""
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
    """Remove a folder whose lock nobody holds. Its maker may be about to lock it: see `_claim`."""
    try:
        claim = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        with contextlib.suppress(OSError):  # it belongs to another user, or is no longer empty
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
    # The lock goes last, so that this pool or another can resume an interrupted removal.
    os.unlink(os.path.join(folder, _LOCK))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(folder)
