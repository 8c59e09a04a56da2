"""Run a data set's own checker, a jailed program that decides whether an output is right.

The checker runs in its own child after each case. The graded program has ended by then, and reaches
the checker only through its output.
"""

import base64
import contextlib
import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from selfreg.grading import boot
from selfreg.grading.child import Child, ChildOver, Ended, Zygote, contents, memory_file
from selfreg.grading.cpp import CompileError, Toolchain
from selfreg.grading.outputs import Difference
from selfreg.grading.sandbox import Limits
from selfreg.grading.values import dump

if TYPE_CHECKING:  # the judge has only the standard library, and passes a similar object
    from selfreg.run.records import Checker

Check = Callable[[bytes, bytes, bytes], Difference | None]

_NAMES = {"testlib": ("input", "output", "answer"), "printed": ("input", "answer", "output")}
_LIMITS = Limits(cpu_s=10.0, wait_s=20.0, memory_mb=1024, file_mb=128)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*["<]testlib\.h[">].*$', re.MULTILINE)
# testlib's exit statuses: right; and wrong answer, presentation error, dirt, unexpected end of
# file.
_RIGHT, _WRONG = 0, (1, 2, 4, 8)
_YES, _NO = ("1", "1.0", "true", "yes", "ok"), ("0", "0.0", "false", "no")

# Code that runs before the checker's own source: it creates the three files and passes their names.
_PYTHON = """\
import base64 as _b, json as _j, sys as _s
_task = _j.load(_s.stdin)
for _name, _text in _task["files"]:
    with open(_name, "wb") as _file:
        _file.write(_b.b64decode(_text))
_s.argv[:] = ["checker.py", *(_name for _name, _ in _task["files"])]
exec(compile(_task["program"], "checker.py", "exec"), {"__name__": "__main__"})
"""
_CPP = """\
#include <cstdio>
#include <cstdlib>
namespace {
// Standard input holds three pairs of a length and so many bytes.
__attribute__((constructor)) void lay_out_files() {
    const char* names[] = {"input", "output", "answer"};
    for (const char* name : names) {
        long long length = 0;
        if (std::scanf("%lld", &length) != 1) std::abort();
        std::getchar();
        std::FILE* file = std::fopen(name, "wb");
        if (!file) std::abort();
        for (; length > 0; --length) std::fputc(std::getchar(), file);
        std::fclose(file);
    }
}
}  // namespace
"""


class CheckerError(Exception):
    """The checker is broken, so that there is no verdict on the program."""


class _Said(NamedTuple):
    """How a checker ended, and the last part of its output."""

    ended: Ended
    output: str
    errors: str


def make_check(checker: "Checker", zygote: Zygote, toolchain: Toolchain) -> Check:
    """Return a function that decides from (input, output, answer) whether the output is right.

    Raises:
      CheckerError: The checker does not compile.
    """
    if checker.language == "cpp":
        try:
            binary = toolchain.build_program(_CPP, _with_testlib(checker.program))
        except CompileError as error:
            raise CheckerError(f"the checker does not compile: {error}") from error

        def run(files: dict[str, bytes]) -> _Said:
            parts = [str(len(data)).encode() + b"\n" + data for data in files.values()]
            with memory_file(b"\n".join(parts)) as stdin, memory_file() as stdout:
                given = {"stdin": stdin, "stdout": stdout}
                names = list(_NAMES[checker.protocol])
                with toolchain.run(binary, _LIMITS, given, names) as running:
                    running.child.report()
                    ended = running.child.end()
                    return _Said(ended, _text(stdout), _text(running.stderr))
    else:

        def run(files: dict[str, bytes]) -> _Said:
            named = [(n, base64.b64encode(files[n]).decode()) for n in _NAMES[checker.protocol]]
            task = json.dumps({"files": named, "program": checker.program}).encode()
            with memory_file(task) as stdin, memory_file() as stdout:
                child = Child(zygote, _LIMITS, files={"stdin": stdin, "stdout": stdout})
                with contextlib.suppress(ChildOver):
                    child.send(dump({"program": _PYTHON}))
                report = child.report().decode(errors="replace")
                return _Said(child.end(), _text(stdout), report)

    def check(given: bytes, output: bytes, answer: bytes) -> Difference | None:
        return _verdict(run({"input": given, "output": output, "answer": answer}), checker.protocol)

    return check


def _with_testlib(source: str) -> str:
    """Return a checker's source with our own testlib.h in place of its include."""
    if not _INCLUDE.search(source):
        return source
    with open(os.path.join(boot.FOLDER, "native", "testlib.h"), encoding="utf-8") as file:
        header = file.read().replace("#pragma once\n", "")
    return _INCLUDE.sub(lambda _: header, source, count=1)


def _text(file: int) -> str:
    return contents(file)[-1000:].decode(errors="replace").strip()


def _verdict(said: _Said, protocol: str) -> Difference | None:
    ended = said.ended
    detail = (said.errors or said.output).rpartition("\n")[2]
    if ended.timed_out:
        raise CheckerError(f"the checker has no verdict: {ended.timed_out}")
    if protocol == "testlib":
        if ended.status in (_RIGHT, *_WRONG) and not said.errors.startswith("exception"):
            wrong = ended.status != _RIGHT
            return ("wrong_output", f"the checker says: {detail}") if wrong else None
    elif ended.status == 0 and said.output:
        word = said.output.split()[-1].lower()
        if word in _YES:
            return None
        if word in _NO:
            return "wrong_output", "the checker says no"
    raise CheckerError(f"the checker has no verdict: {ended.cause}, {detail or 'and says nothing'}")
