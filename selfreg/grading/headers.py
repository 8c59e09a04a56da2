"""C++ compiler settings of a pool, and the standard headers that it precompiles.

The list of these headers is fixed here, and no program can add to it. A program's text only chooses
among the families, and a chosen family contains only headers that the program begins with.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

# In the order of preference: the family that saves most comes first.
FAMILIES: dict[str, tuple[str, ...]] = {
    "everything": ("bits/stdc++.h",),
    "containers": ("algorithm", "iostream", "map", "set", "string", "vector"),
    "procedural": ("algorithm", "cctype", "cstdlib", "numeric", "set", "string", "vector"),
    "functions": ("algorithm", "math.h", "stdio.h", "stdlib.h", "string", "vector"),
    "common": ("algorithm", "iostream", "string", "vector"),
    "algorithms": ("algorithm", "math.h", "stdio.h", "stdlib.h"),
    "vectors": ("iostream", "vector"),
    "streams": ("iostream",),
    "strings": ("string", "vector"),
}
# A line that may stand among the includes at the start of a source. A comment must not continue on
# the next line, as it would after a backslash or its trigraph at the end.
_LINE = re.compile(r"#[ \t]*include[ \t]*<([\w./+-]+)>|using namespace std;|//[^\\?]*|")


class Settings(NamedTuple):
    """How a pool compiles.

    Attributes:
      compiler: The path of g++ or of a compiler with the same options; None if there is none.
      options: Options for every program.
      folder: The folder where the pool's workers share their compiled files.
    """

    compiler: str | None
    options: Sequence[str]
    folder: str

    @property
    def headers(self) -> str:
        """The folder that compilers may read: our own sources, and precompiled headers."""
        return os.path.join(self.folder, "headers")

    @property
    def binaries(self) -> str:
        """The folder of compiled programs and tests."""
        return os.path.join(self.folder, "binaries")


def choose_family(source: str) -> str:
    """Return the first of FAMILIES all of whose headers a source begins with; empty for none."""
    begins_with = set()
    for line in source.split("\n"):
        match = _LINE.fullmatch(line.strip(" \t\r"))
        if match is None:
            break
        begins_with.add(match[1])
    return next((name for name, heads in FAMILIES.items() if begins_with.issuperset(heads)), "")


def family_source(name: str) -> str:
    """Return the source of the header for a family."""
    return "".join(f"#include <{head}>\n" for head in FAMILIES[name]) + '#include "carry.h"\n'
