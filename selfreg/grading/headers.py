"""C++: how a pool compiles, and the standard headers that it compiles once for many programs.

Which headers those are is written here, and nothing that a program says adds to it: its text only
chooses among them, and a choice brings no header that the program does not begin with.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

# By what they save, and so by which is taken where several would do.
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
# A line that may stand among the includes that a source begins with. Not a comment that could go on
# in the next line (a backslash, or the trigraph for one, at its end).
_LINE = re.compile(r"#[ \t]*include[ \t]*<([\w./+-]+)>|using namespace std;|//[^\\?]*|")


class Settings(NamedTuple):
    """How a pool compiles.

    Attributes:
      compiler: The path of g++ or a compiler with its options; None where there is none.
      options: For every program.
      folder: Where the pool's workers share what they compiled.
    """

    compiler: str | None
    options: Sequence[str]
    folder: str

    @property
    def headers(self) -> str:
        """The folder of what compilers may read: our own sources, and precompiled headers."""
        return os.path.join(self.folder, "headers")

    @property
    def binaries(self) -> str:
        """The folder of compiled programs and tests."""
        return os.path.join(self.folder, "binaries")


def choose_family(source: str) -> str:
    """The best of FAMILIES whose headers a source begins with all of; empty for none."""
    begins_with = set()
    for line in source.split("\n"):
        match = _LINE.fullmatch(line.strip(" \t\r"))
        if match is None:
            break
        begins_with.add(match[1])
    return next((name for name, heads in FAMILIES.items() if begins_with.issuperset(heads)), "")


def family_source(name: str) -> str:
    """The source of the header that holds a family."""
    return "".join(f"#include <{head}>\n" for head in FAMILIES[name]) + '#include "carry.h"\n'
