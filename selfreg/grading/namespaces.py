"""Namespaces for a worker's processes: their own mounts, network, processes and host names.

    /                     read-only: libraries, the interpreter and the compiler, as on the host
    /dev                  null, zero, random, urandom
    SCRATCH               a tmpfs of bounded size and number of files, for the programs' writes

There is no /proc, /etc, /home or /tmp. The namespaces are made as root or through a user namespace.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable

from selfreg.grading.system import call, libc

SCRATCH = "/scratch"
SCRATCH_MB = 192  # a precompiled header of the whole standard library takes 100
_SCRATCH_FILES = 4096

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
_NEWPID, _NEWNET = 0x20000000, 0x40000000
_NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _DETACH = 442, -100, 0x8000, 2
_READ_ONLY = 1
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def enter_user(user: int | None) -> bool:
    """Move the process into a user namespace, with the same user id and all capabilities there.

    Args:
      user: Another user to map into the namespace; None for no other.

    Returns:
      Whether that user is mapped. Only root can map users other than itself, from outside.

    Raises:
      OSError: The kernel or the privileges of this process do not allow it.
    """
    mine, group, process = os.geteuid(), os.getegid(), os.getpid()
    inside, ready = os.pipe()
    outsider = os.fork() if user is not None else 0
    if user is not None and outsider == 0:
        os.close(ready)
        with contextlib.suppress(OSError):
            if os.read(inside, 1):
                _write(f"/proc/{process}/uid_map", f"{mine} {mine} 1\n{user} {user} 1")
                _write(f"/proc/{process}/gid_map", f"{group} {group} 1\n{user} {user} 1")
                os._exit(0)
        os._exit(1)
    try:
        call(libc.unshare(_NEWUSER), "unshare(user)")
        os.write(ready, b"+")
    finally:
        os.close(ready)
        os.close(inside)
        mapped = bool(outsider) and os.waitpid(outsider, 0)[1] == 0
    if not mapped:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{mine} {mine} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    return mapped


def enter(root: str, visible: Iterable[str], *, writable: str, owner: int) -> None:
    """Move the process into its own namespaces; its children start in a new pid namespace.

    Args:
      root: An empty folder, where the new root is assembled.
      visible: Paths that stay visible, read-only.
      writable: A folder that stays writable for users who can write into it now.
      owner: The user who owns the scratch folder.

    Raises:
      OSError: The kernel or the privileges of this process do not allow it.
    """
    call(libc.unshare(_NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET), "unshare")
    _mount("none", "/", "", _REC | _PRIVATE, "")  # otherwise the mounts would show outside
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for path in sorted({*visible, *_DEVICES, writable}):
        _show(root, path)
    scratch = root + SCRATCH
    os.mkdir(scratch)
    options = f"size={SCRATCH_MB}m,nr_inodes={_SCRATCH_FILES},mode=700,uid={owner},gid={owner}"
    _set_read_only(root)
    _mount("tmpfs", scratch, "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
    _mount(writable, root + writable, "", _BIND, "")
    os.chdir(root)
    call(libc.pivot_root(b".", b"."), "pivot_root")
    call(libc.umount2(b".", _DETACH), "umount")
    os.chdir("/")


def _show(root: str, path: str) -> None:
    """Make a path of the host visible below a new root. Symbolic links stay links."""
    target = root + path
    if not os.path.lexists(path) or os.path.lexists(target):
        return
    _make_folders(root, os.path.dirname(path))
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(path, target, "", _BIND | _REC, "")


def _make_folders(root: str, path: str) -> None:
    parts = [part for part in path.split("/") if part]
    for depth in range(1, len(parts) + 1):
        folder = "/" + "/".join(parts[:depth])
        if os.path.islink(folder):
            _show(root, folder)
        elif not os.path.isdir(root + folder):
            os.mkdir(root + folder)
            os.chmod(root + folder, 0o755)


def _set_read_only(root: str) -> None:
    attributes = struct.pack("=QQQQ", _READ_ONLY | _NOSUID, 0, 0, 0)
    result = libc.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, root.encode(), _AT_RECURSIVE, attributes, ctypes.c_size_t(32)
    )
    call(result, "mount_setattr")


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    names = (source.encode(), target.encode(), kind.encode())
    result = libc.mount(*names, ctypes.c_ulong(flags), options.encode() or None)
    call(result, f"mount {target}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
