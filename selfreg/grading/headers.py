"""C++: how a pool compiles, and the standard headers that it compiles once for many programs."""

import contextlib
import hashlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

# What a source begins with, as far as it is includes of the standard library.
_PREAMBLE = re.compile(
    r"(?:\s|//[^\n]*\n|/\*.*?\*/|#include[ \t]*<[\w./+-]+>[ \t]*\n|using namespace std;)*",
    re.DOTALL,
)
_INCLUDE = re.compile(r"^#include[ \t]*<([\w./+-]+)>[ \t]*$|^(using namespace std;)", re.MULTILINE)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
# A header is worth its compilation when programs begin with it again and again.
_WORTH_PROGRAMS = 3
_MOST_HEADERS = 8  # each takes up to 150 MB on the disk
_COMPILE_S = 300


class Settings(NamedTuple):
    """How a pool compiles.

    Attributes:
      compiler: The path of g++ or a compiler with its options; None where there is none.
      options: For every program.
      folder: Where the pool's workers share what they compiled.
      token: What a program of tests reports when it passes.
    """

    compiler: str | None
    options: Sequence[str]
    folder: str
    token: str

    @property
    def headers(self) -> str:
        """The folder of what compilers may read: the harness, and precompiled headers."""
        return os.path.join(self.folder, "headers")

    @property
    def binaries(self) -> str:
        """The folder of compiled programs, which hold the tests of their problems."""
        return os.path.join(self.folder, "binaries")


def preamble(source: str) -> tuple[str, ...]:
    """The standard headers that a source begins with, and `using namespace std;` among them."""
    match = _PREAMBLE.match(source)
    text = _COMMENT.sub("", match[0]) if match else ""
    return tuple(header or using for header, using in _INCLUDE.findall(text))


def header_text(parts: Sequence[str]) -> str:
    """The source of a header with these parts, as `preamble` gives them."""
    return "".join(
        f"{part}\n" if part.startswith("using") else f"#include <{part}>\n" for part in parts
    )


def header_name(parts: Sequence[str]) -> str:
    """What the header with these parts is called."""
    return hashlib.sha256(header_text(parts).encode()).hexdigest()[:16] + ".h"


class Headers:
    """The precompiled headers of a pool.

    Only names of standard headers come here, none of a program's own text, so that the compiler
    needs no jail.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: Counter[tuple[str, ...]] = Counter()
        self._names: dict[tuple[str, ...], str] = {}

    def name(self, source: str) -> str:
        """The header that a source begins with, compiled if it is worth it; empty for none."""
        parts = preamble(source)
        self._seen[parts] += 1
        if not parts or self._settings.compiler is None:
            return ""
        if parts not in self._names:
            if self._seen[parts] < _WORTH_PROGRAMS or len(self._names) >= _MOST_HEADERS:
                return ""
            self._names[parts] = self._compile(parts)
        return self._names[parts]

    def _compile(self, parts: tuple[str, ...]) -> str:
        name = header_name(parts)
        path = os.path.join(self._settings.headers, name)
        with open(path, "w") as file:
            file.write(header_text(parts))
        command = [str(self._settings.compiler), "-x", "c++-header", *self._settings.options, path]
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [*command, "-pipe", "-o", f"{path}.gch"],
                cwd=self._settings.headers,
                env={**os.environ, "TMPDIR": self._settings.headers},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_COMPILE_S,
                check=False,
            )
            if done.returncode == 0:
                for made in (path, f"{path}.gch"):
                    os.chmod(made, 0o644)
                return name
        return ""  # a program that includes what is not there will hear of it
