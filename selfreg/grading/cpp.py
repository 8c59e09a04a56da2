"""Compile C++ source into programs, with a compiler in a jail of its own.

No compiler, assembler or linker is started in any other way, whatever the source.
"""

import contextlib
import functools
import hashlib
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from selfreg.grading import boot, namespaces, sources
from selfreg.grading.child import Child, Zygote, contents, memory_file
from selfreg.grading.headers import Settings, choose_family, family_source
from selfreg.grading.sandbox import Limits
from selfreg.grading.sources import Declaration
from selfreg.grading.zygote import KEPT_FD

_COMPILE_LIMITS = Limits(cpu_s=10.0, wait_s=120.0, memory_mb=1024, file_mb=24)
# A precompiled header takes ten times the space of a program.
_HEADER_LIMITS = Limits(cpu_s=60.0, wait_s=300.0, memory_mb=2048, file_mb=namespaces.SCRATCH_MB)
_CHECK_LIMITS = Limits(cpu_s=3.0, wait_s=10.0, memory_mb=1024)
_OUTPUT = "program"
# A header is worth precompiling if several programs begin with it.
_WORTH_PROGRAMS = 3
# The gold linker takes a third of the time of GNU ld, which is used if there is no gold.
_FAST_LINKER = "-fuse-ld=gold"
_CACHE_MB = 256

_NATIVE = os.path.join(boot.FOLDER, "native")
# Each part of the compiler runs under a shell, which turns the part's end into an exit status. The
# reason for the end thus comes from the kernel, and not from messages, which the source can
# influence. The driver has a separate status for its own failures (wrong options, or a killed
# shell). There is no -pipe: of parts that run at once, only the first would get a shell. The linker
# alone runs below a part that hides how it ended (collect2). It is tried once more after any
# failure, which is cheap.
_DRIVER_FAILED, _PART_FAILED, _BY_SIGNAL = 1, 3, 128
_WRAPPER = (
    '"$0" "$@"; s=$?; case $s$0 in 1*collect2) "$0" "$@"; s=$?;; esac; '
    f"[ $s != 0 ] && [ $s -lt {_BY_SIGNAL} ] && s={_PART_FAILED}; exit $s"
)
# The linker's name for a temporary object, which is random.
_TEMPORARY = re.compile(r"\./cc\w{6}\.o:")
_OPTIONS = (
    "-DONLINE_JUDGE",
    "-wrapper",
    f"/bin/sh,-c,{_WRAPPER}",
    "-pass-exit-codes",
    "-o",
    _OUTPUT,
)


class CompileError(Exception):
    """The source does not compile within the limits."""


class ToolchainError(Exception):
    """The compiler is missing, was killed or does not work. The program is not at fault."""


class Running(NamedTuple):
    """A running compiled program and its standard error."""

    child: Child
    stderr: int


class Toolchain:
    """Compiles programs, runs them, and caches them by content for all workers of a pool."""

    def __init__(self, settings: Settings, zygote: Zygote, standard: str = "") -> None:
        """Begin; `standard` is a language standard such as "c++20", or "" for the pool's own."""
        self._settings, self._zygote, self._standard = settings, zygote, standard
        self._seen: Counter[str] = Counter()

    def by_standard(self, standard: str) -> "Toolchain":
        """Return the toolchain for a language standard; "" stands for the pool's own."""
        return Toolchain(self._settings, self._zygote, standard) if standard else self

    def build_program(self, setup: str, program: str) -> bytes:
        """Compile a whole program that has its own `main`.

        Args:
          setup: Source that precedes the program.
          program: The program's source.

        Returns:
          The executable.

        Raises:
          CompileError: The source does not compile.
          ToolchainError: The toolchain does not work.
        """
        unit = sources.whole_unit(setup, program)
        return self._build(lambda _: unit, (setup, program), ("start",))

    def build_function(self, setup: str, declaration: Declaration, program: str) -> bytes:
        """Compile a program that defines a function, into an executable that answers calls of it.

        See `build_program`.
        """
        unit = functools.partial(sources.program_unit, setup, declaration, program)
        begins = (setup, declaration.directives, program)
        types = sources.carried_types(setup, declaration)
        return self._build(unit, begins, ("start", "program"), types)

    def build_tests(self, setup: str, declaration: Declaration, tests: str) -> bytes:
        """Compile a problem's tests into an executable that asks for calls of the function.

        See `build_program`.
        """
        unit = functools.partial(sources.tests_unit, setup, declaration, tests)
        begins = (setup, declaration.directives)
        types = sources.carried_types(setup, declaration)
        return self._build(unit, begins, ("start", "tests"), types)

    @contextlib.contextmanager
    def run(
        self,
        binary: bytes,
        limits: Limits,
        files: dict[str, int] | None = None,
        arguments: Sequence[str] = (),
    ) -> Iterator[Running]:
        """Start a compiled program, with standard input and output from `files`."""
        # The program executes from memory, so that no folder within programs' reach needs to allow
        # execution.
        with memory_file(binary) as executable, memory_file() as stderr:
            child = Child(
                self._zygote,
                limits,
                jail="binary",
                files={**(files or {}), "stderr": stderr, "kept": executable},
                execute=(KEPT_FD, [_OUTPUT, *arguments], {"ONLINE_JUDGE": "1"}),
            )
            yield Running(child, stderr)

    def _build(
        self,
        unit: Callable[[tuple[str, ...]], str],
        begins: Sequence[str],
        objects: Sequence[str],
        types: tuple[str, ...] = (),
    ) -> bytes:
        """Compile a translation unit, or take it from the cache.

        Args:
          unit: Returns the unit's text, given the types that another object carries.
          begins: The texts that the unit begins with, which may include standard headers.
          objects: The sources in `native` that are linked with it.
          types: The types that an object of their own could carry.
        """
        # A lone surrogate cannot be encoded as UTF-8. It is passed on, and the compiler reports it.
        source = unit(()).encode(errors="surrogatepass")
        name = hashlib.sha256(" ".join((self._standard, *objects)).encode() + source).hexdigest()
        path = os.path.join(self._settings.binaries, name)
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            return file.read()
        self._make_objects(objects)
        header = self._header(begins) or ("" if objects == ("start",) else "carry.h")
        if carriers := self._carriers(types):
            objects = (*objects, carriers)
            source = unit(types).encode(errors="surrogatepass")
        command = [word for name in objects for word in ("-xnone", self._path(f"{name}.o"))]
        command += ["-xc++", *(("-include", self._path(header)) if header else ()), "-"]
        if objects != ("start",):
            command.append("-Wl,--wrap=main")
        binary = self._compile(source, [*command, *self._linker()], _COMPILE_LIMITS)
        _write(path, binary)
        _shrink(self._settings.binaries, _CACHE_MB << 20)
        return binary

    def _path(self, name: str) -> str:
        return os.path.join(self._settings.headers, name)

    def _make_objects(self, names: Sequence[str]) -> None:
        """Compile our own sources, and check the toolchain, once for each pool."""
        lacking = [name for name in names if not os.path.exists(self._path(f"{name}.o"))]
        if not lacking:
            return
        if self._settings.compiler is None:
            raise ToolchainError("no g++ on the PATH: install it to grade C++ programs")
        for name in os.listdir(_NATIVE):
            with open(os.path.join(_NATIVE, name), "rb") as file:
                _write(self._path(name), file.read())
        try:
            for name in lacking:
                command = ["-xc++", "-c", self._path(f"{name}.cpp")]
                compiled = self._compile(b"", command, _COMPILE_LIMITS)
                if name == "start":
                    self._check(compiled)
                _write(self._path(f"{name}.o"), compiled)
        except CompileError as error:
            raise ToolchainError(f"{self._settings.compiler} does not work: {error}") from error

    def _check(self, start: bytes) -> None:
        """Check the toolchain, and find out which linker it has."""
        trial = f"start.{os.getpid()}.o"
        _write(self._path(trial), start)
        command = ["-xnone", self._path(trial), "-xc++", "-"]
        try:
            self._try([*command, _FAST_LINKER])
            linker = _FAST_LINKER
        except (CompileError, ToolchainError):
            self._try(command)
            linker = ""
        _write(self._path("linker"), linker.encode())

    def _linker(self) -> list[str]:
        """Return the options that choose the linker."""
        with open(self._path("linker")) as file:
            return file.read().split()

    def _try(self, command: Sequence[str]) -> None:
        """Compile, link and run a program that does nothing."""
        binary = self._compile(b"int main() {}\n", command, _COMPILE_LIMITS)
        with self.run(binary, _CHECK_LIMITS) as running:
            running.child.report()
            ended = running.child.end()
            reason = contents(running.stderr).decode(errors="replace")
        if ended.status != 0:
            reason = reason or ended.timed_out or ended.cause
            raise ToolchainError(f"what {self._settings.compiler} compiles does not run: {reason}")

    def _header(self, begins: Sequence[str]) -> str:
        """Return a unit's precompiled header, and make it if it is worth it; empty for none."""
        if self._standard:
            return ""  # precompiled headers have the pool's standard
        family = choose_family("\n".join(begins))
        self._seen[family] += 1
        name = f"{family}.h"
        if not family or self._seen[family] < _WORTH_PROGRAMS:
            return ""
        if os.path.exists(self._path(f"{name}.gch")):
            return name
        try:
            # The worker that creates the file compiles the header. The others compile without a
            # header until it is ready.
            with open(self._path(name), "x") as file:
                file.write(family_source(family))
            command = ["-xc++-header", self._path(name)]
            _write(self._path(f"{name}.gch"), self._compile(b"", command, _HEADER_LIMITS))
        except (FileExistsError, CompileError):
            return ""
        return name

    def _carriers(self, types: tuple[str, ...]) -> str:
        """Return the object that carries types, and make it if it is worth it; empty for none."""
        unit = sources.carriers_unit(types).encode()
        name = f"carriers-{hashlib.sha256(unit).hexdigest()}"
        self._seen[name] += 1
        if not types or self._seen[name] < _WORTH_PROGRAMS:
            return ""
        if os.path.exists(self._path(f"{name}.o")):
            return name
        try:
            with open(self._path(name), "x"):  # as in `_header`
                pass
            command = ["-xc++", "-I", self._settings.headers, "-c", "-"]
            _write(self._path(f"{name}.o"), self._compile(unit, command, _COMPILE_LIMITS))
        except (FileExistsError, CompileError):
            return ""
        return name

    def _compile(self, source: bytes, arguments: Sequence[str], limits: Limits) -> bytes:
        """Run the compiler in its jail, on source from its standard input."""
        # The source is not a file, because a program could then include it in itself.
        compiler = self._settings.compiler
        assert compiler is not None
        standard = [f"-std={self._standard}"] if self._standard else []
        command = [compiler, *arguments, *self._settings.options, *standard, *_OPTIONS]
        path = f"{os.path.dirname(compiler)}:{os.defpath}"
        environment = {"PATH": path, "TMPDIR": ".", "LC_ALL": "C"}
        with memory_file(source) as stdin, memory_file() as stderr:
            child = Child(
                self._zygote,
                limits,
                jail="compiler",
                files={"stdin": stdin, "stderr": stderr},
                execute=(compiler, command, environment),
                output=_OUTPUT,
            )
            child.report()
            ended = child.end()
            errors = contents(stderr).decode(errors="replace").replace(self._path(""), "")
        binary = b""
        if ended.output is not None:
            with open(ended.output, "rb") as file:
                binary = file.read()
        if binary:
            return binary
        reason = _first_error(errors) or ended.timed_out or ended.cause
        if ended.status == _DRIVER_FAILED:
            raise ToolchainError(f"{compiler} does not work: {reason}")
        # A part that reaches its own limits gets another signal, or is denied memory.
        if ended.status == _BY_SIGNAL + signal.SIGKILL:
            raise ToolchainError("something killed the compiler: is the machine short of memory?")
        raise CompileError(reason)


def _first_error(errors: str) -> str:
    """Return the first line that reports an error, without parts that vary between runs."""
    errors = _TEMPORARY.sub("", errors)
    lines = [line.strip() for line in errors.splitlines()]
    marks = ("error", "undefined reference")
    return next((line for line in lines if any(mark in line for mark in marks)), "")


def _write(path: str, data: bytes) -> None:
    """Write a file so that other workers see it either whole or not at all."""
    part = f"{path}.part{os.getpid()}"
    with open(part, "wb") as file:
        file.write(data)
    os.rename(part, path)


def _shrink(folder: str, most_bytes: int) -> None:
    """Remove the oldest files until the folder is small enough."""
    with contextlib.suppress(FileNotFoundError):  # another worker may be doing the same
        files = sorted(os.scandir(folder), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= most_bytes:
                break
            total -= file.stat().st_size
            os.unlink(file)
