"""How the judge and its zygote are started: as fresh interpreters, with the standard library alone.

They take nothing from the environment, the current folder or what the trainer has imported.
"""

import os

FOLDER = os.path.dirname(os.path.abspath(__file__))
# One arena for malloc, as each that a thread gets takes 64 MiB of the address space.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1", "LD_BIND_NOW": "1"}
# For numpy: its threads would count against limits, do not survive a fork, and jails forbid them.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

# The packages without their __init__, which import what is not there.
_CODE = """\
import importlib, sys, types
package = types.ModuleType("selfreg")
package.grading = types.ModuleType("selfreg.grading")
package.__path__, package.grading.__path__ = [], [sys.argv[1]]
sys.modules.update({"selfreg": package, "selfreg.grading": package.grading})
importlib.import_module("selfreg.grading." + sys.argv[2]).main(int(sys.argv[3]))
"""
# Not -I, which ignores the hash seed: with a random one the order of a set, and with it a verdict,
# would change from process to process.
_OPTIONS = ("-S", "-s", "-P", "-X", "utf8")


def command(interpreter: str, part: str) -> list[str]:
    """The command that starts a part; the number of its connection is to be added."""
    return [interpreter, *_OPTIONS, "-c", _CODE, FOLDER, part]
