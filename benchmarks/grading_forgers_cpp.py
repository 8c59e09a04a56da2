"""Generate C++ programs that try to pass without being right; see benchmarks.grading_forgers."""

import random
from collections.abc import Callable, Iterator

from benchmarks.grading_forgers import LIMIT_S, Job, draw_some
from selfreg.run.records import Language, Problem, Tests

_Variant = Callable[[random.Random], str]
_STARTER = "int solve(int a, int b) {\n"
_CPP_TESTS = (
    "assert(solve(2, 3) == 5); assert(solve(10, -4) == 6);",
    "assert(5 == solve(2, 3));",
    "assert(!(solve(2, 3) != 5));",
    "assert(solve(2, 3) > 4 && solve(2, 3) < 6);",
    "int x = solve(2, 3); assert(x == 5);",
    "auto x = solve(2, 3); assert(x == 5);",
    "if (solve(2, 3) != 5) return 1;",
    "if (solve(2, 3) - 5) abort();",
    "switch (solve(2, 3)) { case 5: break; default: return 1; }",
)
_WRONG = "int solve(int, int) { return 7; }\n"
_KEYWORDS = (
    *("int", "return", "if", "for", "struct", "class", "template", "typename", "auto", "decltype"),
    *("namespace", "using", "void", "const", "static_cast", "operator", "true", "false", "assert"),
    *("main", "std", "solve", "selfreg_answer", "selfreg_carry", "selfreg_channel", "selfreg_type"),
    *("answer", "put", "get", "call", "fail", "done", "ask", "convert", "invoke", "selfreg_x"),
    *("__assert_fail", "NDEBUG", "throw", "try", "catch", "static", "extern", "inline", "R", "A"),
)


def _cpp_liar(rng: random.Random) -> str:
    """Return a result that claims to equal whatever it is compared with."""
    methods = (
        "bool operator==(int) const { return true; }",
        "bool operator!=(int) const { return false; }",
        "template <class T> bool operator==(const T&) const { return true; }",
        "template <class T> bool operator!=(const T&) const { return false; }",
        "bool operator<(int) const { return true; }",
        "bool operator>(int) const { return true; }",
        "operator bool() const { return true; }",
        "operator int() const { return 7; }",
        "template <class T> operator T() const { return T(7); }",
        "bool operator!() const { return false; }",
        "template <class T> bool operator,(T&&) const { return true; }",
        "int operator-(int) const { return 0; }",
        "L* operator&() { return nullptr; }",
        "template <class T> operator T&() const { static T t{}; return t; }",
        "friend bool operator==(int, L) { return true; }",
        "friend bool operator!=(int, L) { return false; }",
        "using value_type = int; const int* begin() const { return 0; } "
        "long size() const { return 0; }",
        "operator long long() const { return 7; }",
        "explicit operator int() const { return 7; }",
        "int first = 7, second = 7;",
        "using traits_type = int; const char* c_str() const { return 0; }",
        "bool has_value() const { return true; } int operator*() const { return 7; }",
    )
    body = " ".join(draw_some(rng, methods))
    kind = rng.choice(("struct L", "struct B {}; struct L : B", "union L", "class L"))
    access = "public: " if kind.startswith("class") else ""
    result = rng.choice(
        ("L", "const L", "const L&", "auto", "decltype(auto)", "L&&", "volatile L*")
    )
    value = {
        "const L&": "static L l; return l;",
        "L&&": "static L l; return static_cast<L&&>(l);",
        "volatile L*": "return 0;",
        "auto": "return L();",
        "decltype(auto)": "return L();",
    }.get(result, "return {};")
    macro = rng.choice(("", "", "#define int L\n", "#define bool L\n", "#define auto L\n"))
    arguments = rng.choice(
        ("int, int", "L, L", "...", "int a, int b = 0", "const int&, const int&")
    )
    if macro == "#define int L\n":
        arguments = "int, int"
    return f"{kind} {{ {access}{body} }};\n{macro}{result} solve({arguments}) {{ {value} }}\n"


def _cpp_macro(rng: random.Random) -> str:
    names = draw_some(rng, _KEYWORDS)[: rng.randint(1, 4)]
    values = ("", "true", "5", "if (0)", "(5)", "7", "exit", "0 ? 0 :", "x", "(void)", "1 ||")
    lines = [
        f"#define {name}{rng.choice(('', '', '(...)', '(a, b)', '(x)'))} {rng.choice(values)}\n"
        for name in names
    ]
    undone = "".join(f"#undef {name}\n" for name in names if rng.randrange(4) == 0)
    after = rng.randrange(2)
    return f"{_WRONG}{''.join(lines)}{undone}" if after else f"{''.join(lines)}{undone}{_WRONG}"


def _cpp_symbol(rng: random.Random) -> str:
    """Define symbols that belong to the driver, the C library or the linker."""
    symbols = (
        'extern "C" int __wrap_main(int, char**) { return 0; }',
        'extern "C" int __real_main(int, char**) { return 0; }',
        'extern "C" long write(int, const void*, unsigned long n) { return n; }',
        'extern "C" long read(int, void*, unsigned long n) { return n; }',
        'extern "C" void _exit(int) { for (;;); }',
        'extern "C" void* memcpy(void* d, const void*, unsigned long) { return d; }',
        "void selfreg_answer() {}",
        "namespace selfreg_channel { void done() {} }",
        "namespace selfreg_channel { void put(const void*, Size) {} }",
        "namespace selfreg_channel { void fail(const char*) { throw 1; } }",
        "namespace selfreg_channel { void ask() {} }",
        "namespace selfreg_carry { template <> int get<int>() { return 5; } }",
        "namespace selfreg_carry { template <> void put<int>(const int&) { } }",
        "namespace selfreg_declared { int solve(int, int) { return 5; } }",
        "namespace std { template <> struct is_same<int, int> { static const bool value = 0; }; }",
        'int f() __asm__("main"); int f() { return 0; }',
        'int g() __asm__("_Z14selfreg_answerv"); int g() { return 0; }',
        'int h() __asm__("__wrap_main"); int h() { return 0; }',
        'asm(".globl selfreg_answer\\nselfreg_answer: ret");',
        'asm(".section .init_array\\n.quad 0");',
        'asm(".symver write,write@VERS_9");',
        "void operator delete(void*) noexcept {} "
        "void* operator new(unsigned long) { static char b[9999]; return b; }",
        "int main() { return 0; }",
        'extern "C" void __cxa_throw(void*, void*, void (*)(void*)) { for (;;); }',
        'extern "C" int __libc_start_main() { return 0; }',
        'extern "C" void _start() {}',
    )
    return "\n".join([*draw_some(rng, symbols)[: rng.randint(1, 3)], _WRONG])


def _cpp_include(rng: random.Random) -> str:
    """Make the compiler read a forbidden file, or load it as a plugin."""
    path = rng.choice(
        (
            "/etc/passwd",
            "/proc/self/environ",
            "/dev/zero",
            "/dev/stdin",
            "../tests.cpp",
            "tests.o",
            "program.o",
            "/proc/self/fd/0",
            "carry.h",
            "channel.h",
            "linker",
            "/etc/ld.so.cache",
            "start.o",
            "/proc/1/environ",
            "/dev/fd/3",
        )
    )
    way = rng.choice(
        (
            f"#include <{path}>",
            f'#include "{path}"',
            f"// \\\n#include <{path}>",
            f"%:include <{path}>",
            f"#inc\\\nlude <{path}>",
            f"#define P <{path}>\n#include P",
            f"#include_next <{path}>",
            f'asm(".incbin \\"{path}\\"");',
            f'asm(".include \\"{path}\\"");',
            f'#pragma GCC dependency "{path}"',
            f'#pragma GCC pch_preprocess "{path}"',
            f'#line 1 "{path}"\n#include __FILE__',
            f"#import <{path}>",
            f'_Pragma("GCC dependency \\"{path}\\"")',
            f'#pragma comment(lib, "{path}")',
            f'asm(".section .note.GNU-stack,\\"x\\"\\n.incbin \\"{path}\\"");',
            f'#pragma GCC plugin "{path}"',
            f"#if __has_include(<{path}>)\n#define solve(a, b) 5\n#endif",
            '#pragma push_macro("assert")',
            f'__attribute__((section("{path}"))) int x;',
            f'#pragma implementation "{path}"',
        )
    )
    return f"{way}\n{_WRONG}" if rng.randrange(2) else f"{_WRONG}{way}\n"


def _cpp_seeker(rng: random.Random) -> str:
    """Search for a token or an answer, and write all that is found to the channel."""
    look = rng.choice(
        (
            "char b[4096]; for (int i = 0; i < 256; i++) { if (i == 3) continue; "
            "long n = pread(i, b, sizeof b, 0); if (n > 0) write(3, b, n); }",
            "for (char* p = &__executable_start; p + 9 < &end; p++) if (*p == 'p') write(3, p, 9);",
            "for (char** e = environ; *e; e++) write(3, *e, strlen(*e));",
            "long* s = (long*)&a; for (int i = 0; i < 4000; i++) write(3, s + i, 8);",
            "int f = open(P, 0); char b[9999]; long n; "
            "while ((n = read(f, b, 9999)) > 0) write(3, b, n);",
            "char b[99]; long n = recv(3, b, 99, MSG_PEEK); write(3, b, n);",
        )
    )
    path = rng.choice(
        ("/proc/self/maps", "/proc/self/mem", "/proc/self/exe", "program", "/etc/passwd")
    )
    where = rng.choice(
        (
            "__attribute__((constructor)) void go() { int a = 0; (void)a; LOOK }\n" + _WRONG,
            "int solve(int a, int) { LOOK return 7; }\n",
        )
    )
    end = rng.choice(("", "_exit(0);"))
    return (
        "#include <fcntl.h>\n#include <string.h>\n#include <sys/socket.h>\n#include <unistd.h>\n"
        f'#define P "{path}"\nextern "C" char __executable_start, end;\n'
        + where.replace("LOOK", look + end)
    )


def _cpp_frame(rng: random.Random) -> str:
    """Write messages that were not asked for, or that are malformed."""
    kind, size = rng.choice("rpcefxm\0"), rng.choice((0, 1, 4, 5, 9, 17, 21, 255))
    length = rng.choice((size, size + 1, 0xFFFFFFFF, 0, 17))
    value = rng.choice((5, 6, 0, 1, 255))
    count = rng.randrange(1, 99)
    first = rng.choice(f"pr{kind}")
    send = (
        f"unsigned char m[300] = {{{length >> 24}, {length >> 16 & 255}, {length >> 8 & 255}, "
        f"{length & 255}}}; m[12] = {ord(kind)}; m[13] = {value}; m[4] = {ord(first)}; "
        f"for (int i = 0; i < {count}; i++) write({rng.choice((3, 3, 3, 1, 0, 4))}, m, {size + 4});"
    )
    end = rng.choice(("", "_exit(0);", "for (;;) read(3, m, 1);"))
    if rng.randrange(2):
        begin = "#include <unistd.h>\n__attribute__((constructor)) void f()"
        return f"{begin} {{ {send} {end} }}\n{_WRONG}"
    return f"#include <unistd.h>\nint solve(int, int) {{ {send} {end} return 7; }}\n"


def _cpp_death(rng: random.Random) -> str:
    """Die in any way and at any moment."""
    number = rng.randrange(1, 65)
    way = rng.choice(
        (
            f"raise({number});",
            f"kill(getpid(), {number});",
            f"kill(0, {number});",
            f"kill(-1, {number});",
            f"kill(getppid(), {number});",
            "abort();",
            "exit(0);",
            "_exit(0);",
            "quick_exit(0);",
            "alarm(1);",
            "std::terminate();",
            "*(volatile int*)8 = 1;",
            "__builtin_trap();",
            "throw 5;",
            "throw nullptr;",
            f"rlimit l{{{rng.choice((0, 1))}, 1}}; "
            f"setrlimit(__rlimit_resource({rng.randrange(16)}), &l);",
            "atexit([] { _exit(0); }); exit(0);",
            "signal(SIGABRT, [](int) { _exit(0); }); abort();",
            "longjmp(b, 1);",
            f"sigset_t s; sigfillset(&s); sigprocmask(0, &s, 0); raise({number});",
            f"prctl(1, {number}, 0, 0, 0);",
            f"syscall({rng.choice((56, 57, 58, 231, 60, 62, 200, 435))}, 0, 0, 0);",
            f"close({rng.randrange(9)});",
            f"shutdown(3, {rng.randrange(3)});",
            f"dup2({rng.randrange(3)}, 3);",
        )
    )
    head = (
        "#include <csetjmp>\n#include <csignal>\n#include <cstdlib>\n#include <exception>\n"
        "#include <sys/prctl.h>\n#include <sys/resource.h>\n#include <sys/socket.h>\n"
        "#include <unistd.h>\njmp_buf b;\n"
    )
    return head + rng.choice(
        (
            f"int solve(int, int) {{ {way} return 7; }}\n",
            f"__attribute__((constructor)) void f() {{ {way} }}\n{_WRONG}",
            f"__attribute__((destructor)) void f() {{ {way} }}\n{_WRONG}",
            f"struct S {{ ~S() noexcept(false) {{ {way} }} }} s;\n{_WRONG}",
            f"void f() {{ {way} }}\nint solve(int, int) {{ atexit(f); return 7; }}\n",
        )
    )


def _cpp_flood(rng: random.Random) -> str:
    stream, size = rng.choice((0, 1, 2, 3)), rng.choice((1, 999, 65536, 1 << 20))
    count = rng.choice((1, 99, 9999))
    return (
        f"#include <unistd.h>\nstatic char x[{size}];\nint solve(int, int) {{ "
        f"for (int i = 0; i < {count}; i++) write({stream}, x, sizeof x); return 7; }}\n"
    )


def _cpp_wait(rng: random.Random) -> str:
    way = rng.choice(
        (
            "pause();",
            "for (;;) usleep(500);",
            "for (;;) sched_yield();",
            "for (;;) usleep(30000);",
            "char c; while (read(3, &c, 1) >= 0);",
            'for (;;) { write(3, "\\0\\17\\0\\0", 1); usleep(700); }',
            "poll(0, 0, -1);",
            "for (;;) poll(0, 0, 3);",
            "for (;;) fsync(1);",
            "raise(SIGSTOP);",
            "std::mutex m; m.lock(); m.lock();",
            "std::thread t([] { for (;;) usleep(99); }); t.join();",
            "for (volatile int i = 0;; i = i + 1);",
        )
    )
    return (
        "#include <csignal>\n#include <mutex>\n#include <poll.h>\n#include <sched.h>\n"
        f"#include <thread>\n#include <unistd.h>\nint solve(int, int) {{ {way} return 7; }}\n"
    )


_CPP: dict[str, _Variant] = {
    "liar": _cpp_liar,
    "macro": _cpp_macro,
    "symbol": _cpp_symbol,
    "include": _cpp_include,
    "liar again": _cpp_liar,
    "seeker": _cpp_seeker,
    "frame": _cpp_frame,
    "death": _cpp_death,
    "macro again": _cpp_macro,
    "flood": _cpp_flood,
    "wait": _cpp_wait,
}


def cpp_forgers(seed: int, count: int) -> Iterator[Job]:
    """Yield problems to add two numbers, each with a C++ program that must not pass it."""
    rng, kinds = random.Random(f"c++ {seed}"), list(_CPP)
    for number in range(count):
        kind, body = kinds[number % len(kinds)], rng.choice(_CPP_TESTS)
        begin = "#undef NDEBUG\n#include <assert.h>\n#include <stdlib.h>\nint main() {"
        problem = Problem(
            f"{kind}/{seed}/{number}",
            "",
            Tests(code=f"{begin} {body} return 0; }}\n"),
            Language.CPP,
            "solve",
            starter=_STARTER if rng.randrange(4) else "",
            time_limit_s=LIMIT_S,
            memory_limit_mb=512,
        )
        yield problem, f"{_CPP[kind](rng)}// {seed} {number}\n"
