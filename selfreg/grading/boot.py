"""Start the judge and its zygote as fresh interpreters, with the standard library only.

They take nothing from the environment, the current folder or the trainer's imports.
"""

import os

FOLDER = os.path.dirname(os.path.abspath(__file__))
# One malloc arena: each further one, which a thread would get, takes 64 MiB of the address space.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1", "LD_BIND_NOW": "1"}
# For numpy. Its threads would count against limits, do not survive a fork, and are forbidden by
# jails.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

# The packages are made without their __init__ files, which import modules that are absent here.
_CODE = """\
import importlib, sys, types
package = types.ModuleType("selfreg")
package.grading = types.ModuleType("selfreg.grading")
package.__path__, package.grading.__path__ = [], [sys.argv[1]]
sys.modules.update({"selfreg": package, "selfreg.grading": package.grading})
importlib.import_module("selfreg.grading." + sys.argv[2]).main(int(sys.argv[3]))
"""
# Not -I, which ignores the hash seed. With a random seed the order of a set, and so a verdict,
# would change from process to process.
_OPTIONS = ("-S", "-s", "-P", "-X", "utf8")


def command(interpreter: str, part: str) -> list[str]:
    """Return the command that starts a part; the caller adds the number of its connection."""
    return [interpreter, *_OPTIONS, "-c", _CODE, FOLDER, part]
