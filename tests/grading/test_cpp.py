"""Test C++ functions: the program supplies values, and only the tests decide if they are right."""

import ast
import json
import os
import re
import threading
from pathlib import Path

import pytest

from selfreg.grading import GraderPool, sources
from selfreg.grading.headers import FAMILIES, choose_family
from selfreg.run.records import Language, Outcome, Problem, StdioCase, Tests

GRADING = Path(sources.__file__).parent
ASSERTS = (
    "#undef NDEBUG\n#include <assert.h>\n"
    "int main() { assert(solve(2, 3) == 5); assert(solve(10, -4) == 6); }\n"
)
# A "lie" replaces `int solve(int, int)` by an attack that could fool the tests. A "right" row is an
# honest definition of it. A "type" row has a starter, tests, a right program and a wrong one.
ROWS = [json.loads(line) for line in (Path(__file__).parent / "functions_cpp.jsonl").open()]
LIES = {row["id"]: row["code"] for row in ROWS if row["kind"] == "lie"}
RIGHT = {row["id"]: row["code"] for row in ROWS if row["kind"] == "right"}


def problem(test=ASSERTS, starter="int solve(int a, int b) {\n", **options):
    return Problem(
        id="cpp/0",
        spec="",
        tests=Tests(code=test, setup=options.pop("setup", "")),
        language=Language.CPP,
        entry_point="solve",
        starter=starter,
        time_limit_s=options.pop("time_limit_s", 1.0),
        memory_limit_mb=512,
        **options,
    )


def outcome(pool, program, *arguments, **options):
    (grade,) = pool.grade([(problem(*arguments, **options), program)])
    return grade.outcome


def test_no_lie_passes(pool_in_each_way):
    pool, restarts = pool_in_each_way, pool_in_each_way.counts["worker_restarts"]
    # If the problem has no declaration, the tests use the program's own.
    for starter in ("int solve(int a, int b) {\n", ""):
        grades = pool.grade([(problem(starter=starter), program) for program in LIES.values()])
        pairs = zip(LIES, grades, strict=True)
        bad = [(name, g) for name, g in pairs if g.outcome is Outcome.PASSED or not g.is_verdict]
        assert bad == []
    assert pool.counts["worker_restarts"] == restarts


def test_what_is_right_passes(pool_in_each_way):
    pool = pool_in_each_way
    grades = pool.grade([(problem(), program) for program in RIGHT.values()])
    wrong = {
        name: grade
        for name, grade in zip(RIGHT, grades, strict=True)
        if grade.outcome is not Outcome.PASSED
    }
    assert wrong == {}
    assert outcome(pool, RIGHT["plain"], ASSERTS, "") is Outcome.PASSED


INCLUDES = "#include <bits/stdc++.h>\nusing namespace std;\n"


def test_types_are_carried(pool):
    jobs, wanted = [], []
    for row in (row for row in ROWS if row["kind"] == "type"):
        body = row["tests"]
        tests = f"#undef NDEBUG\n#include <cassert>\nint main() {{ {body} return 0; }}\n"
        one = problem(tests, f"{INCLUDES}{row['starter']}\n")
        jobs += [(one, INCLUDES + row["right"]), (one, INCLUDES + row["wrong"])]
        wanted += [True, False]
    grades = pool.grade(jobs)
    odd = [
        (program, grade)
        for (_, program), grade, passes in zip(jobs, grades, wanted, strict=True)
        if (grade.outcome is Outcome.PASSED) is not passes
        or grade.outcome in (Outcome.TEST_ERROR, Outcome.COMPILE_ERROR)
    ]
    assert odd == []


def test_helpers_and_names_of_the_library(pool):
    # The tests see the starter's helper, and the program's function although the library also has
    # a function of that name.
    starter = (
        INCLUDES + "// Is it sorted? } {\nint twice(int x) { return 2 * x; }\nchar c = '{';\n"
        "bool is_sorted(vector<int> x) {\n    /* } */\n"
    )
    tests = "int main() { return !(is_sorted({1, 2}) && !is_sorted({twice(1), 1})); }"
    one = Problem(
        id="a", spec="", tests=Tests(code=tests), language=Language.CPP, entry_point="is_sorted",
        starter=starter,
    )  # fmt: skip
    right = starter + "    return std::is_sorted(x.begin(), x.end());\n}\n"
    cheat = (
        INCLUDES
        + "int twice(int) { return 9; }\nbool is_sorted(vector<int> x) { return x[0] == 1; }"
    )
    lie = INCLUDES + "int twice(int) { return 0; }\nbool is_sorted(vector<int> x) { return true; }"
    outcomes = [grade.outcome for grade in pool.grade([(one, p) for p in (right, cheat, lie)])]
    assert outcomes == [Outcome.PASSED, Outcome.PASSED, Outcome.FAILED]


@pytest.mark.parametrize(
    ("starter", "tests", "reason"),
    [
        ("struct P { int x; };\nP solve(P x) {", "int main() { solve({1}); }", "can be carried"),
        ("int solve(int* x, int n) {", "int main() { solve(0, 0); }", "can be carried"),
        ("template <class T> T solve(T x) {", "int main() { solve(1); }", ""),
        ("auto solve(int x) {", "int main() { solve(1); }", ""),
        ("int solve(int x) {", "int main() { return other(solve(1)); }", "other"),
        ("int solve(int x) {", "int main() {", ""),
    ],
)
def test_what_cannot_be_carried_is_refused(pool, starter, tests, reason):
    (grade,) = pool.grade([(problem(tests, starter), "int solve(int x) { return x; }")])
    assert grade.outcome is Outcome.TEST_ERROR
    assert reason in grade.detail


def test_tests_without_a_call_pass_nothing(pool):
    assert outcome(pool, RIGHT["plain"], "int main() {}") is Outcome.FAILED


def test_tests_that_do_not_end_on_an_answer_are_the_programs_failure(pool):
    tests = "int main() { for (volatile long i = solve(1, 1); i; ); }"
    assert outcome(pool, "int solve(int, int) { return 1; }", tests, time_limit_s=0.3) is (
        Outcome.TIMEOUT
    )
    tests = "int main() { return *(volatile int*)(long(solve(0, 0))); }"
    assert outcome(pool, "int solve(int, int) { return 0; }", tests) is Outcome.EXCEPTION


# --- The compiler, which is run in a jail only ----------------------------------------------------

WHOLE = "int main() { return 0; }\n"
# Each makes the compiler read something forbidden, or produce more than it may.
HOSTILE = {
    "comment": f"// \\\n#include <PATH>\n{WHOLE}",
    "trigraph": f"// ??/\n#include <PATH>\n{WHOLE}",
    "long comment": f"/* *\\\n/\n#include <PATH>\n{WHOLE}",
    "spliced": f"#inc\\\nlude <PATH>\n{WHOLE}",
    "digraph": f"%:include <PATH>\n{WHOLE}",
    "macro": f"#define P <PATH>\n#include P\n{WHOLE}",
    "quotes": f'#include "PATH"\n{WHOLE}',
    "climbing": f"#include <../../../../../../../..PATH>\n{WHOLE}",
    "next": f"#include_next <PATH>\n{WHOLE}",
    "import": f"#import <PATH>\n{WHOLE}",
    "behind a header": f"#include <vector>\n#include <PATH>\n{WHOLE}",
    "has include": f"#if __has_include(<PATH>)\n{WHOLE}#endif\n",
    "embed": f"const char x[] = {{\n#embed <PATH>\n}};\n{WHOLE}",
    "incbin": f'asm(".incbin \\"PATH\\"");\n{WHOLE}',
    "include of the assembler": f'asm(".include \\"PATH\\"");\n{WHOLE}',
    "dependency": f'#pragma GCC dependency "PATH"\n#error\n{WHOLE}',
    "pragma": f'_Pragma("GCC dependency \\"PATH\\"")\n#error\n{WHOLE}',
    "precompiled": f'#pragma GCC pch_preprocess "PATH"\n#error\n{WHOLE}',
    "line": f'#line 1 "PATH"\n#include __FILE__\n{WHOLE}',
    "raw string": f'R"(\n#include <PATH>\n)";\n{WHOLE}',
}
ENDLESS = {
    "zero": f"#include </dev/zero>\n{WHOLE}",
    "message": '#pragma message "Killed signal terminated program cc1plus"\n'
    "template <int n> struct A { static const int v = A<n + 1>::v; };\nint x = A<0>::v;\n",
    "itself": f"#include __FILE__\n{WHOLE}",
    "flood of the assembler": f'asm(".fill 1000000000, 8, 1");\n{WHOLE}',
    "space": f'asm(".org 0x7ffffffff");\n{WHOLE}',
    "large": f"char x[1 << 28] = {{1}};\n{WHOLE}",
}


def whole(program):
    tests = Tests(stdio=(StdioCase("", ""),))
    one = Problem("whole", "", tests, Language.CPP, time_limit_s=5.0, memory_limit_mb=512)
    return one, program


def test_compilers_are_jailed_and_read_no_host_file(pool_in_each_way, descendants, tmp_path):
    pool, seen, free = pool_in_each_way, set(), []
    secret = tmp_path / "secret.h"
    secret.write_text("int canary_of_the_host;\n")
    os.chmod(tmp_path, 0o755)
    done = threading.Event()

    def watch():
        while not done.is_set():
            for process in descendants():
                try:
                    name = Path(f"/proc/{process}/comm").read_text().strip()
                    if name in ("g++", "cc1plus", "as", "collect2", "ld"):
                        seen.add(name)
                        if reason := out_of_jail(process, pool.isolation):
                            free.append((name, reason))
                except OSError:
                    continue  # it ended

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        programs = [text.replace("PATH", str(secret)) for text in HOSTILE.values()] + list(
            ENDLESS.values()
        )
        # Each runs twice, which is enough to precompile a header if it came from their text.
        grades = pool.grade([whole(f"{text}//{i}\n") for text in programs for i in range(2)])
    finally:
        done.set()
        watcher.join()
    assert free == []
    assert {"g++", "cc1plus"} <= seen
    names = [name for name in (*HOSTILE, *ENDLESS) for _ in range(2)]
    passed = {n for n, g in zip(names, grades, strict=True) if g.outcome is Outcome.PASSED}
    assert passed <= {"long comment", "comment", "trigraph", "raw string", "large"}
    assert not any("canary_of_the_host" in grade.detail for grade in grades)
    assert pool.counts["retries"] == 0


def out_of_jail(process, isolation):
    """Describe the part of the jail that a process lacks; "" if it lacks nothing."""
    status = Path(f"/proc/{process}/status").read_text()
    limits = Path(f"/proc/{process}/limits").read_text()
    if not re.search(r"^NoNewPrivs:\s*1$", status, re.MULTILINE):
        return "it can gain privileges"
    if not re.search(r"^Seccomp:\s*2$", status, re.MULTILINE):
        return "it has no filter"
    if not re.search(r"^CapEff:\s*0+$", status, re.MULTILINE):
        return "it has capabilities"
    for limit in ("cpu time", "file size", "address space"):
        if re.search(rf"^Max {limit}\s+unlimited", limits, re.MULTILINE):
            return f"its {limit} has no limit"
    for kind in ("mnt", "pid", "net") if isolation != "landlock" else ():
        if os.readlink(f"/proc/{process}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}"):
            return f"its {kind} namespace is the host's"
    return ""


def test_compilers_are_named_in_one_place_alone():
    def is_name(node: ast.AST) -> bool:
        return isinstance(node, (ast.Name, ast.Attribute))

    # Whoever starts a process has to name what it is, or how.
    for path in GRADING.glob("*.py"):
        source = path.read_text()
        if path.name not in ("process.py", "child.py", "zygote.py", "system.py"):
            called = {ast.unparse(n) for n in ast.walk(ast.parse(source)) if is_name(n)}
            starters = r"subprocess|(os\.|posix\.)?(posix_spawn|exec[lv]|popen|system$|spawn)"
            assert not [name for name in called if re.match(starters, name, re.IGNORECASE)], path
        if path.name != "cpp.py":
            assert not re.search(r"settings\.options|cc1plus|collect2", source), path
    assert 'jail="compiler"' in (GRADING / "cpp.py").read_text()


def test_headers_come_from_a_fixed_list():
    assert choose_family("#include <bits/stdc++.h>\nint main() {}") == "everything"
    assert choose_family(
        "// sum\n\n#include <vector>\r\nusing namespace std;\n#include<string>"
    ) == ("strings")
    for source in (
        "// \\\n#include <iostream>\n",
        "// ??/\n#include <iostream>\n",
        "/* */\n#include <iostream>\n",
        "#define x\n#include <iostream>\n",
        '#include "iostream"\n',
        "#include <iostream> // \\\n",
        "int x;\n#include <bits/stdc++.h>\n",
    ):
        assert choose_family(source) == ""
    assert all(re.fullmatch(r"[a-z0-9/+.]+", head) for heads in FAMILIES.values() for head in heads)


def test_threads_and_deep_recursion_are_honest(pool):
    eight = (
        "#include <thread>\n#include <vector>\nint main() { std::vector<std::thread> all; "
        "for (int i = 0; i < 8; i++) all.emplace_back([] {}); for (auto& t : all) t.join(); }"
    )
    deep = (
        "#include <sys/resource.h>\n"
        "int f(int n) { volatile int x = n; return n ? f(n - 1) + x - x : 0; }\n"
        "int main() { rlimit l{256 << 20, 256 << 20}; setrlimit(RLIMIT_STACK, &l); "
        "return f(2000000); }"
    )
    grades = pool.grade([whole(eight), whole(deep)])
    assert [grade.outcome for grade in grades] == [Outcome.PASSED] * 2, grades


def test_a_killed_compiler_is_nobodys_verdict(make_problem, descendants):
    # Each process of the compiler is killed once, as on a machine that is short of memory.
    victims, done = {"cc1plus", "as", "sh", "g++"}, threading.Event()

    def kill():
        while not done.is_set() and victims:
            for process in descendants():
                try:
                    name = Path(f"/proc/{process}/comm").read_text().strip()
                    if name in victims:
                        os.kill(process, 9)
                        victims.discard(name)
                except (FileNotFoundError, ProcessLookupError):
                    continue

    with GraderPool(1, max_retries=100) as pool:
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            for i in range(12):
                one = make_problem(Language.CPP)
                program = f"int add(int a, int b) {{ return a + b; }} // {i}"
                (grade,) = pool.grade([(one, program)])
                assert grade.outcome is Outcome.PASSED, grade
                if not victims:
                    break
        finally:
            done.set()
            killer.join()
        assert "cc1plus" not in victims
        assert pool.counts["retries"] > 0


def test_types_are_carried_by_code_that_is_compiled_once():
    body = "{ x.push_back(2); return string(x.size(), 'a'); }"
    starter = "#include <string>\n#include <vector>\nusing namespace std;\nstring solve("
    tests = (
        "#undef NDEBUG\n#include <cassert>\nint main() { vector<int> v{%d}; "
        'assert(solve(v) == "aa" && v.size() == 2); }'
    )
    jobs, wanted = [], []
    for i in range(6):
        one = problem(tests % (i + 3), f"{starter}vector<int>& x) {{")
        jobs += [
            (one, f"{starter}vector<int>& x) {body}"),
            (one, f"{starter}vector<int> x) {body}"),
            (one, f"{starter}vector<int>& x) {body.replace('size()', 'front()')}"),
        ]
        wanted += [True, False, False]
    with GraderPool(1) as pool:
        passed = [grade.outcome is Outcome.PASSED for grade in pool.grade(jobs)]
        objects = list(Path(pool._folder).glob("cpp/headers/carriers-*.o"))
    assert passed == wanted
    assert len(objects) == 1


def test_types_that_could_mean_another_thing_are_not_shared():
    def types(signature, context="using namespace std;\n", setup="#include <vector>\n"):
        return sources.carried_types(setup, sources.Declaration(context, signature, "f"))

    vector = ("std::vector < int >",)
    assert types("vector<int> f(const std::vector<int>& x, int n)") == vector
    assert types("vector<int> f()", "#include <set>\n// vector\n") == vector
    for other in (
        types("vector<int> f()", "#define int long\n"),
        types("vector<int> f()", setup="#define int long\n"),
        types("vector<int> f()", setup="#include <vector> // \\\n"),
        types("vector<int> f()", "typedef char vector;\n"),
        types("vector<ll> f()"),
        types("int f(int n)"),
    ):
        assert other == ()
