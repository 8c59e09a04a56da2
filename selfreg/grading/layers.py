"""Find out which sandbox layers hold, by attempting in a child what each one forbids."""

import os

from selfreg.grading import namespaces
from selfreg.grading.child import Child, JailError, Zygote
from selfreg.grading.ladder import LAYERS, Layer
from selfreg.grading.sandbox import Limits
from selfreg.grading.values import dump
from selfreg.grading.zygote import SEAL

_LIMITS = Limits(cpu_s=2.0, wait_s=10.0, memory_mb=256, file_mb=namespaces.SCRATCH_MB + 2)
_IMPORT = "import colorsys, os\nos.write(3, b'imported')"  # one that the zygote has not imported
_ATTEMPT = """\
import os, socket
try:
    {act}
except (OSError, MemoryError):
    os.write(3, b"denied")
"""


def probe(zygote: Zygote) -> list[str]:
    """Return the names of the LAYERS that hold, in their order, and seal the zygote.

    Raises:
      JailError: The jail keeps even honest programs from their library.
    """
    if _run(zygote, _IMPORT) != b"imported":
        library = os.path.dirname(os.__file__)
        raise JailError(f"jailed programs cannot import from {library}: can this user read it?")
    held = [name for name, layer in LAYERS.items() if layer.bare and _holds(zygote, layer)]
    zygote.control.send(SEAL)
    held += [name for name, layer in LAYERS.items() if not layer.bare and _holds(zygote, layer)]
    return [name for name in LAYERS if name in held]


def _holds(zygote: Zygote, layer: Layer) -> bool:
    act = layer.act.format(judge=os.getpid(), memory_mb=_LIMITS.memory_mb)
    return _run(zygote, _ATTEMPT.format(act=act), layer.bare) == b"denied"


def _run(zygote: Zygote, program: str, bare: bool = False) -> bytes:
    child = Child(zygote, _LIMITS, bare=bare)
    child.send(dump({"program": program}))
    report = child.report()
    child.end()
    return report
