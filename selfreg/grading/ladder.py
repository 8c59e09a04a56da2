"""The isolations for programs, from the strongest down, and the layers that each consists of.

ns         namespaces and a user of its own, made as root
userns     namespaces, made through a user namespace: no root needed
landlock   no namespaces (a container's default): Landlock, seccomp and rlimits
weak       whatever layers there are, and only if the caller allows it
"""

from typing import NamedTuple

from selfreg.grading.namespaces import SCRATCH_MB


class Layer(NamedTuple):
    """A layer of the sandbox.

    Attributes:
      meaning: A statement that is true if the layer holds.
      act: A statement that raises OSError or MemoryError if the layer holds.
      bare: Whether it is tried without Landlock and seccomp, which would also deny the act.
    """

    meaning: str
    act: str
    bare: bool = False


LAYERS = {
    "rlimits": Layer("memory is bounded", "bytearray({memory_mb} << 20)"),
    "capabilities": Layer("root has no power", "os.setgroups(os.getgroups() + [1])", bare=True),
    "seccomp": Layer("there are no sockets", "socket.socket(socket.AF_UNIX)"),
    "landlock": Layer("files but those of the library cannot be read", "os.listdir('/')"),
    "netns": Layer(
        "the network is empty",
        # A datagram socket sends nothing here; the kernel only looks for a route.
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))",
        bare=True,
    ),
    "mounts": Layer("the host's files are out of sight", "os.stat('/proc/self')", bare=True),
    "pidns": Layer("the host's processes are out of sight", "os.getsid({judge})", bare=True),
    "user": Layer("programs are not root", "os.setuid(0)", bare=True),
    "quota": Layer(
        "what the scratch folder takes is bounded",
        f"os.posix_fallocate(os.open('x', os.O_CREAT | os.O_RDWR), 0, {SCRATCH_MB + 1} << 20)",
        bare=True,
    ),
}
# The layers that must hold in each isolation.
NEEDED = {
    "ns": ("rlimits", "capabilities", "netns", "mounts", "pidns", "user", "quota"),
    "userns": ("rlimits", "capabilities", "netns", "mounts", "pidns", "quota"),
    "landlock": ("rlimits", "capabilities", "seccomp", "landlock"),
    "weak": ("rlimits",),
}
LADDER = ("ns", "userns", "landlock")


def refusal(isolation: str, held: tuple[str, ...]) -> str:
    """Return why the layers that hold are not enough for an isolation; empty if they are."""
    lacking = [name for name in NEEDED[isolation] if name not in held]
    return "; ".join(f"{name} does not hold: {LAYERS[name].meaning}" for name in lacking)
