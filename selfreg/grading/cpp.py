"""C++: from source to a compiled program, by a compiler that is kept in a jail of its own."""

import contextlib
import hashlib
import os
from collections.abc import Sequence

from selfreg.grading.child import Child, Ended, Zygote, contents, memory_file
from selfreg.grading.headers import Settings
from selfreg.grading.sandbox import Limits
from selfreg.grading.zygote import CHANNEL_FD, KEPT_FD

_COMPILE_LIMITS = Limits(cpu_s=10.0, wait_s=120.0, memory_mb=2048, file_mb=24)
_CHECK_LIMITS = Limits(cpu_s=3.0, wait_s=10.0, memory_mb=1024)
_OUTPUT = "program"
_CACHE_MB = 256
# What g++ says when one of its parts was killed from outside: at its own limits a part gets SIGXCPU
# or reports the memory. So often in a row it is taken for the source's doing, for a source can make
# the compiler say anything, and must not be able to stop the pool.
_KILLED = ("Killed signal terminated program", "terminated with signal 9")
_TRIES = 5

# The linker sends the start-up code to this main and leaves the tests' own as it is. The token is
# written when the tests return: exit(0), before or within them, never comes here.
_HARNESS = """\
#include <cstdio>
#include <unistd.h>
extern "C" int __real_main(int, char**);
extern "C" int __wrap_main(int count, char** values) {{
    int status = __real_main(count, values);
    if (status == 0) dprintf({channel}, "%s", "{token}");
    else dprintf({channel}, "failed\\nthe tests returned %d", status);
    _exit(status);
}}
"""


class CompileError(Exception):
    """The source does not compile within the limits."""


class ToolchainError(Exception):
    """The compiler is missing or does not work: not the program's doing."""


class Toolchain:
    """Compiles, caches programs by their content for all workers of a pool, and runs them.

    The attribute `token` is what a program of tests reports when it passes.
    """

    def __init__(self, settings: Settings, zygote: Zygote) -> None:
        self.token = settings.token.encode()
        self._settings, self._zygote = settings, zygote
        self._harness = os.path.join(settings.headers, "harness.o")

    def build(self, setup: str, program: str, tests: str, header: str = "") -> bytes:
        """Compile a program, one translation unit with its setup and tests.

        Args:
          setup: Comes before the program.
          program: Its source.
          tests: Come after it, with their `main`; empty for a program that has one itself.
          header: The name of a precompiled header that holds what setup and program begin with.

        Returns:
          The executable. With tests it reports the pool's token to CHANNEL_FD when they pass.

        Raises:
          CompileError: The source does not compile.
          ToolchainError: Nothing does.
        """
        # A program's own `#define main` must not rename that of the tests.
        parts = ['#line 1 "setup.cpp"', setup, '#line 1 "program.cpp"', program]
        parts += ["#undef main", '#line 1 "tests.cpp"', tests] if tests else []
        # A lone surrogate stands for a byte that was no UTF-8: the compiler will say what it is.
        source = "\n".join([*parts, ""]).encode(errors="surrogatepass")
        path = os.path.join(self._settings.binaries, hashlib.sha256(source).hexdigest())
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            return file.read()
        self._make_harness()
        arguments = ["-include", os.path.join(self._settings.headers, header)] if header else []
        binary = self._compile(source, arguments, _linked(self._harness) if tests else ())
        _write(path, binary)
        _shrink(self._settings.binaries, _CACHE_MB << 20)
        return binary

    def run(
        self, binary: bytes, limits: Limits, files: dict[str, int]
    ) -> tuple[Ended, bytes, bytes]:
        """Run a compiled program: how it ended, its report, and what it wrote to standard error."""
        # Executed from memory: no folder that programs could reach needs to allow execution.
        with memory_file(binary) as executable, memory_file() as stderr:
            child = Child(
                self._zygote,
                limits,
                jail="binary",
                files={**files, "stderr": stderr, "kept": executable},
                execute=(KEPT_FD, [_OUTPUT], {}),
            )
            report = child.report()
            return child.end(), report, contents(stderr)

    def _make_harness(self) -> None:
        """Compile the harness, and try all that a program needs: once a pool."""
        if os.path.exists(self._harness):
            return
        settings, trial = self._settings, f"{self._harness}.{os.getpid()}"
        if settings.compiler is None:
            raise ToolchainError("no g++ on the PATH: install it to grade C++ programs")
        source = _HARNESS.format(channel=CHANNEL_FD, token=settings.token)
        try:
            _write(trial, self._compile(source.encode(), [], ("-c",)))
            binary = self._compile(b"int main() {}\n", [], _linked(trial))
        except CompileError as error:
            raise ToolchainError(f"{settings.compiler} does not work: {error}") from error
        ended, report, errors = self.run(binary, _CHECK_LIMITS, {})
        if report != self.token:
            reason = errors.decode(errors="replace") or ended.cause
            raise ToolchainError(f"what {settings.compiler} compiles does not run: {reason}")
        os.rename(trial, self._harness)

    def _compile(self, source: bytes, before: Sequence[str], after: Sequence[str]) -> bytes:
        compiler = self._settings.compiler
        assert compiler is not None
        # From standard input: a source file could be read into the program that it becomes.
        command = [compiler, "-x", "c++", *before, "-", *after, *self._settings.options]
        command += ["-pipe", "-o", _OUTPUT]
        path = f"{os.path.dirname(compiler)}:{os.defpath}"
        environment = {"PATH": path, "TMPDIR": ".", "LC_ALL": "C"}
        for _ in range(_TRIES):
            with memory_file(source) as stdin, memory_file() as stderr:
                child = Child(
                    self._zygote,
                    _COMPILE_LIMITS,
                    jail="compiler",
                    files={"stdin": stdin, "stderr": stderr},
                    execute=(compiler, command, environment),
                    output=_OUTPUT,
                )
                child.report()
                ended = child.end()
                errors = contents(stderr).decode(errors="replace")
            if ended.output is not None or not any(words in errors for words in _KILLED):
                break
        binary = b""
        if ended.output is not None:
            with open(ended.output, "rb") as file:
                binary = file.read()
        if not binary:
            raise CompileError(_first_error(errors) or ended.timed_out or ended.cause)
        return binary


def _linked(harness: str) -> tuple[str, ...]:
    return "-x", "none", harness, "-Wl,--wrap=main"


def _first_error(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines()]
    marks = ("error", "undefined reference")
    return next((line for line in lines if any(mark in line for mark in marks)), "")


def _write(path: str, data: bytes) -> None:
    """Write a file that other workers see whole or not at all."""
    part = f"{path}.part{os.getpid()}"
    with open(part, "wb") as file:
        file.write(data)
    os.rename(part, path)


def _shrink(folder: str, most_bytes: int) -> None:
    """Remove the files that were made the longest time ago until the folder is small enough."""
    with contextlib.suppress(FileNotFoundError):  # another worker does the same
        files = sorted(os.scandir(folder), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= most_bytes:
                break
            total -= file.stat().st_size
            os.unlink(file)
