"""C++ functions: the program supplies values, and the tests alone say whether they are right."""

import contextlib
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from selfreg.grading import GraderError, GraderPool, sources
from selfreg.grading.headers import FAMILIES, choose_family
from selfreg.grading.ladder import LADDER
from selfreg.records import Language, Outcome, Problem, StdioCase, Tests

GRADING = Path(sources.__file__).parent
RECORDS = [json.loads(line) for line in (Path(__file__).parent / "attacks_cpp.jsonl").open()]
ASSERTS = (
    "#undef NDEBUG\n#include <assert.h>\n"
    "int main() { assert(solve(2, 3) == 5); assert(solve(10, -4) == 6); }\n"
)
# What an attack in the place of `int solve(int, int)` could make the tests believe.
LIES = {
    "equal": "struct L { bool operator==(int) const { return true; } }; L solve(int, int) { return {}; }",
    "unequal": "struct L { bool operator!=(int) const { return false; } bool operator==(int) const "
    "{ return true; } }; L solve(int, int) { return {}; }",
    "free equal": "struct L {}; bool operator==(L, int) { return true; } L solve(int, int) { return {}; }",
    "any equal": "struct L {}; template <class T> bool operator==(const L&, const T&) { return true; }\n"
    "L solve(int, int) { return {}; }",
    "conversion": "int n; struct L { operator int() const { return n; } }; L solve(int, int) { return {}; }",
    "template conversion": "struct L { template <class T> operator T() const { return T(); } };\n"
    "L solve(int, int) { return {}; }",
    "macro": "#define solve(a, b) 5, 5 == 5 || 6\nint f;",
    "macro of the name": "#define solve(...) true || 0\nint f;",
    "macro of assert": "#include <cassert>\n#undef assert\n#define assert(x)\nint solve(int, int) { return 0; }",
    "macro of int": "struct L { L(int = 0) {} bool operator==(L) const { return true; } };\n"
    "#define int L\nint solve(int, int) { return {}; }",
    "macro of return": "int solve(int, int) { return 0; }\n#define return if (false) return",
    "macro of equality": "#define assert(x) (x || true)\nint solve(int, int) { return 0; }",
    "comma": "struct L { template <class T> bool operator,(T) { return true; } bool operator==(int) "
    "{ return true; } };\nL solve(int, int) { return {}; }",
    "wrong for each": "int solve(int a, int b) { return a == 2 ? 5 : 0; }",
    "own channel": '#include <unistd.h>\nint solve(int, int) { write(3, "\\0\\0\\0\\1p", 5); return 0; }',
    "early channel": "#include <unistd.h>\n__attribute__((constructor)) void f() "
    '{ for (int i = 3; i < 64; i++) write(i, "\\0\\0\\0\\1p", 5); _exit(0); }\nint solve(int, int);',
    "early answers": "#include <unistd.h>\n__attribute__((constructor)) void f() {\n"
    '  write(3, "\\0\\0\\0\\21" "\\0\\0\\0\\0\\0\\0\\0\\0" "r" "\\5\\0\\0\\0\\0\\0\\0\\0", 21); }\n'
    "int solve(int, int) { return 0; }",
    "own driver": "void selfreg_answer() {}\nint solve(int, int) { return 0; }",
    "own main": "int solve(int, int) { return 0; }\nint main() { return 0; }",
    "own wrapped main": 'extern "C" int __wrap_main(int, char**) { return 0; }\nint solve(int, int);',
    "own channel functions": "namespace selfreg_channel { void ask() {} void done() {} }\n"
    "int solve(int, int) { return 0; }",
    "own carry": "namespace selfreg_carry { template <> void put<int>(const int&) {} }\n"
    "int solve(int, int) { return 0; }",
    "own assert": 'extern "C" void __assert_fail(const char*, const char*, unsigned, const char*) '
    "noexcept { for (;;); }\nint solve(int, int) { return 0; }",
    "abort handler": "#include <csignal>\n#include <cstdlib>\nint solve(int, int) "
    "{ signal(SIGABRT, [](int) { _Exit(0); }); abort(); }",
    "exit": "#include <cstdlib>\nint solve(int, int) { exit(0); }",
    "hard exit": "#include <unistd.h>\nint solve(int, int) { _exit(0); }",
    "at exit": "#include <cstdlib>\nint solve(int, int) { atexit([] { _Exit(0); }); exit(0); }",
    "static object": "#include <cstdlib>\nstruct S { S() { exit(0); } } s;\nint solve(int, int) { return 0; }",
    "throw": "int solve(int, int) { throw 5; }",
    "long jump": "#include <csetjmp>\njmp_buf b;\nint solve(int, int) { longjmp(b, 1); }",
    "close": "#include <unistd.h>\nint solve(int, int) { for (int i = 0; i < 64; i++) close(i); return 0; }",
    "closed answer": "#include <unistd.h>\nint solve(int, int) { dup2(0, 3); return 0; }",
    "own write": '#include <sys/types.h>\nextern "C" ssize_t write(int, const void*, size_t n) '
    "{ return n; }\nint solve(int, int) { return 0; }",
    "own allocation": "#include <cstdlib>\n#include <new>\nvoid* operator new(size_t n) { static char "
    "b[1 << 20]; return b; }\nvoid operator delete(void*) noexcept {}\nint solve(int, int) { return 0; }",
    "scan of memory": next(row["code"] for row in RECORDS if row["id"] == "x_cpp_token_scan"),
    "scan of files": "#include <unistd.h>\nint solve(int, int) { char b[4096]; for (int i = 0; i < 256; i++) "
    "{ if (i == 3) continue; long n = pread(i, b, sizeof b, 0); if (n > 0) write(3, b, n); } return 0; }",
    "huge answer": '#include <unistd.h>\nint solve(int, int) { write(3, "\\177\\377\\377\\377", 4); for (;;) '
    'write(3, "x", 1); }',
}
RIGHT = {
    "plain": "int solve(int a, int b) { return a + b; }",
    "long": "long long solve(long long a, long long b) { return a + b; }",
    "double": "double solve(double a, double b) { return a + b; }",
    "own idea of int": "#define int long long\nint solve(int a, int b) { return a + b; }",
    "references": "int solve(const int& a, const int& b) { return a + b; }",
    "template": "template <class T> T solve(T a, T b) { return a + b; }",
    "overloads": "int solve(int a) { return a; }\nint solve(int a, int b) { return solve(a) + b; }",
    "lambda": "auto solve = [](int a, int b) { return a + b; };",
    "default": "int solve(int a, int b, int c = 0) { return a + b + c; }",
    "static": "static inline int solve(int a, int b) { return a + b; }",
    "a namespace": "namespace mine { int solve(int a, int b) { return a + b; } }\nusing namespace mine;",
    "own main": "int solve(int a, int b) { return a + b; }\nint main() { return 1; }",
    "noise": '#include <iostream>\nint solve(int a, int b) { std::cout << "x"; std::cerr << "y"; return a + b; }',
    "macros": "#define n 5\n#define x first\n#define a p\nint solve(int a, int b) { return a + b; }",
    "kept between calls": "int calls = 0;\nint solve(int a, int b) { return ++calls ? a + b : 0; }",
}


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


def test_no_lie_passes(pool):
    grades = pool.grade([(problem(), program) for program in LIES.values()])
    lucky = [
        name for name, grade in zip(LIES, grades, strict=True) if grade.outcome is Outcome.PASSED
    ]
    assert lucky == []
    # Nor where the problem declares nothing, and the program's own declaration has to do.
    grades = pool.grade([(problem(starter=""), program) for program in LIES.values()])
    lucky = [
        name for name, grade in zip(LIES, grades, strict=True) if grade.outcome is Outcome.PASSED
    ]
    assert lucky == []
    assert pool.counts["worker_restarts"] == 0


def test_what_is_right_passes(pool):
    grades = pool.grade([(problem(), program) for program in RIGHT.values()])
    wrong = {
        name: grade
        for name, grade in zip(RIGHT, grades, strict=True)
        if grade.outcome is not Outcome.PASSED
    }
    assert wrong == {}
    assert outcome(pool, RIGHT["plain"], ASSERTS, "") is Outcome.PASSED


# (starter, right program, wrong program, tests)
INCLUDES = "#include <bits/stdc++.h>\nusing namespace std;\n"
TYPES = {
    "vectors": (
        "vector<vector<int>> solve(vector<int> x, string s) {",
        "vector<vector<int>> solve(vector<int> x, string s) { return {x, {int(s.size())}, {}}; }",
        "vector<vector<int>> solve(vector<int> x, string s) { return {x, {int(s.size())}}; }",
        'assert((solve({1, 2}, "abc") == vector<vector<int>>{{1, 2}, {3}, {}}));',
    ),
    "maps": (
        "map<string, vector<double>> solve(map<char, int> x) {",
        "map<string, vector<double>> solve(const map<char, int>& x) { map<string, vector<double>> y; "
        "for (auto& [k, v] : x) y[string(1, k)] = {v / 2.0}; return y; }",
        "map<string, vector<double>> solve(map<char, int> x) { return {}; }",
        "assert((solve({{'a', 1}}) == map<string, vector<double>>{{\"a\", {0.5}}}));",
    ),
    "pairs and sets": (
        "set<pair<int, bool>> solve(unordered_map<int, string> x, vector<bool> y) {",
        "set<pair<int, bool>> solve(unordered_map<int, string> x, vector<bool> y) "
        "{ return {{x.begin()->first, y[0]}}; }",
        "set<pair<int, bool>> solve(unordered_map<int, string> x, vector<bool> y) { return {}; }",
        'assert((solve({{7, "x"}}, {true}) == set<pair<int, bool>>{{7, true}}));',
    ),
    "changed arguments": (
        "void solve(vector<int>& x, string& s, const int& n) {",
        "void solve(vector<int>& x, string& s, const int& n) { x.push_back(n); s += 'x'; }",
        "void solve(vector<int>& x, string& s, int n) { x.push_back(n); }",
        'vector<int> x{1}; string s; solve(x, s, 2); assert((x == vector<int>{1, 2})); assert(s == "x");',
    ),
    "own idea of int in a vector": (
        "vector<int> solve(vector<int> x) {",
        "#define int long long\nvector<int> solve(vector<int> x) { x.push_back(1); return x; }",
        "#define int long long\nvector<int> solve(vector<int> x) { x.push_back(1LL << 40); return x; }",
        "assert((solve({5}) == vector<int>{5, 1}));",
    ),
    "exceptions": (
        "int solve(int x) {",
        'int solve(int x) { if (x < 0) throw std::invalid_argument("negative"); return x; }',
        "int solve(int x) { if (x < 0) throw 1; return x; }",
        "assert(solve(1) == 1); try { solve(-1); return 1; } catch (const invalid_argument& e) "
        '{ assert(string("negative") == e.what()); }',
    ),
    "wide numbers": (
        "unsigned long long solve(long x, unsigned char c, float f) {",
        "unsigned long long solve(long x, unsigned char c, float f) { return -x + c + (f == 0.1f); }",
        "unsigned long long solve(long x, unsigned char c, float f) { return 0; }",
        "assert(solve(LONG_MIN, 255, 0.1f) == (1ull << 63) + 256);",
    ),
    "optional and array": (
        "optional<array<int, 2>> solve(deque<int> x) {",
        "optional<array<int, 2>> solve(deque<int> x) { if (x.empty()) return {}; return {{{x[0], 2}}}; }",
        "optional<array<int, 2>> solve(deque<int> x) { return {}; }",
        "assert(!solve({})); assert((*solve({1}) == array<int, 2>{1, 2}));",
    ),
    "bytes": (
        "string solve(string x) {",
        "string solve(string x) { return x + '\\0' + '\\xff'; }",
        "string solve(string x) { return x; }",
        'assert((solve(string("\\0\\n\\x80", 3)) == string("\\0\\n\\x80\\0\\xff", 5)));',
    ),
    "a name of the library": (
        "int solve(string s) { return 1; }\nbool is_sorted(vector<int> x) {",
        "int solve(string s) { return 1; }\n",
        "",
        "",
    ),
}
del TYPES["a name of the library"]


def test_types_are_carried(pool):
    jobs, wanted = [], []
    for starter, right, wrong, body in TYPES.values():
        tests = f"#undef NDEBUG\n#include <cassert>\nint main() {{ {body} return 0; }}\n"
        one = problem(tests, f"{INCLUDES}{starter}\n")
        jobs += [(one, INCLUDES + right), (one, INCLUDES + wrong)]
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
    # The tests see the starter's helper, and a name that the library has, too.
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
