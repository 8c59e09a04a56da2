"""The operations of the procedural family, as program text in Python and in C++.

An operation is one statement that maps a list to a list, or a string to a string. A terminal is the
expression that the program returns. procedural_phrases.py words both for specs, under the same
names.
"""

from dataclasses import dataclass

POSITIONS = (2, 3, 4, 5)  # above 5, most inputs are too short to tell two constants apart
NUMBERS = (2, 3, 4, 5, 6, 7, 8, 9)


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. `{k}` stands for its constant.

    Attributes:
      name: Unique among the operations and terminals of its kind.
      python: The expression whose value replaces `x`.
      cpp: The statement that changes `x` in place, with CPP_HEADER included.
      constants: The values that `{k}` may take; empty if there is no constant.
    """

    name: str
    python: str
    cpp: str
    constants: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Terminal:
    """The returned expression.

    Attributes:
      name: Unique among the operations and terminals of its kind.
      python: The expression in Python.
      cpp: The expression in C++, with CPP_HEADER included.
      cpp_type: The type of the C++ result.
    """

    name: str
    python: str
    cpp: str
    cpp_type: str = "long"


OPS = {
    "list": (
        Op("even", "[v for v in x if v % 2 == 0]", "KEEP(x, v % 2 == 0);"),
        Op("odd", "[v for v in x if v % 2 != 0]", "KEEP(x, v % 2 != 0);"),
        Op("positive", "[v for v in x if v > 0]", "KEEP(x, v > 0);"),
        Op("above", "[v for v in x if v > {k}]", "KEEP(x, v > {k});", NUMBERS),
        Op("below", "[v for v in x if v < {k}]", "KEEP(x, v < {k});", NUMBERS),
        # Starts at 3, because the multiples of 2 are "even".
        Op("multiples", "[v for v in x if v % {k} == 0]", "KEEP(x, v % {k} == 0);", NUMBERS[1:]),
        Op("add", "[v + {k} for v in x]", "EACH(x, v + {k});", NUMBERS),
        Op("subtract", "[v - {k} for v in x]", "EACH(x, v - {k});", NUMBERS),
        Op("multiply", "[v * {k} for v in x]", "EACH(x, v * {k});", NUMBERS),
        Op("square", "[v * v for v in x]", "EACH(x, v * v);"),
        Op("negate", "[-v for v in x]", "EACH(x, -v);"),
        Op("absolute", "[abs(v) for v in x]", "EACH(x, abs(v));"),
        Op("cap", "[min(v, {k}) for v in x]", "EACH(x, min(v, {k}L));", NUMBERS),
        Op("sort", "sorted(x)", "SORT(x);"),
        Op("sort_down", "sorted(x)[::-1]", "RSORT(x);"),
        Op("reverse", "x[::-1]", "REV(x);"),
        Op("unique", "list(dict.fromkeys(x))", "UNIQ(x);"),
        Op("drop", "x[{k}:]", "DROP(x, {k});", POSITIONS),
        Op("take", "x[:{k}]", "TAKE(x, {k});", POSITIONS),
        Op("alternate", "x[::2]", "ALT(x);"),
        Op("rotate", "x[{k}:] + x[:{k}]", "ROT(x, {k});", POSITIONS),
        Op("totals", "[sum(x[:i + 1]) for i in range(len(x))]", "SUMS(x);"),
    ),
    "string": (
        Op("upper", "x.upper()", "EACH(x, toupper(v));"),
        Op("lower", "x.lower()", "EACH(x, tolower(v));"),
        Op("swap_case", "x.swapcase()", "EACH(x, SWAP(v));"),
        Op("reverse", "x[::-1]", "REV(x);"),
        Op("no_vowels", '"".join(c for c in x if c not in "aeiouAEIOU")', "KEEP(x, !VOWEL(v));"),
        Op("no_spaces", 'x.replace(" ", "")', "KEEP(x, v != ' ');"),
        Op("sort", '"".join(sorted(x))', "SORT(x);"),
        Op("unique", '"".join(dict.fromkeys(x))', "UNIQ(x);"),
        Op("double", '"".join(c + c for c in x)', "DOUBLE(x);"),
        Op("repeat", "x * {k}", "REPEAT(x, {k});", POSITIONS),
        Op("take", "x[:{k}]", "TAKE(x, {k});", POSITIONS),
        Op("drop", "x[{k}:]", "DROP(x, {k});", POSITIONS),
        Op("words", '" ".join(x.split()[::-1])', "WORDS(x);"),
    ),
}

CPP_TYPES = {"list": "vector<long>", "string": "string"}

TERMINALS = {
    "list": (
        Terminal("self", "x", "x", CPP_TYPES["list"]),
        Terminal("length", "len(x)", "LEN(x)"),
        Terminal("distinct", "len(set(x))", "DISTINCT(x)"),
        Terminal("palindrome", "x == x[::-1]", "PAL(x)", "bool"),
        Terminal("first", "x[0]", "x.front()"),
        Terminal("last", "x[-1]", "x.back()"),
        Terminal("sum", "sum(x)", "SUM(x)"),
        Terminal("max", "max(x)", "MAX(x)"),
        Terminal("min", "min(x)", "MIN(x)"),
        Terminal("spread", "max(x) - min(x)", "MAX(x) - MIN(x)"),
    ),
    "string": (
        Terminal("self", "x", "x", CPP_TYPES["string"]),
        Terminal("length", "len(x)", "LEN(x)"),
        Terminal("distinct", "len(set(x))", "DISTINCT(x)"),
        Terminal("palindrome", "x == x[::-1]", "PAL(x)", "bool"),
        Terminal("first", "x[0]", "x.substr(0, 1)", "string"),
        Terminal("last", "x[-1]", "x.substr(x.size() - 1)", "string"),
        Terminal("vowels", 'sum(c in "aeiouAEIOU" for c in x)', "VOWELS(x)"),
    ),
}

# The names are in upper case, because a model is unlikely to define such a name itself. Statements
# change x in place. Reading the front of an empty x is undefined, but no test makes a right program
# do so.
CPP_HEADER = """\
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <numeric>
#include <set>
#include <string>
#include <vector>
using namespace std;
#define KEEP(x, ...) \\
    x.erase(remove_if(x.begin(), x.end(), [&](auto v) { return !(__VA_ARGS__); }), x.end())
#define EACH(x, ...) for (auto& v : x) v = (__VA_ARGS__)
inline bool VOWEL(char c) { return string("aeiouAEIOU").find(c) != string::npos; }
inline char SWAP(char c) { return isupper(c) ? tolower(c) : toupper(c); }
template <class C> void SORT(C& x) { sort(x.begin(), x.end()); }
template <class C> void REV(C& x) { reverse(x.begin(), x.end()); }
template <class C> void RSORT(C& x) { SORT(x); REV(x); }
template <class C> void DROP(C& x, size_t k) { x.erase(x.begin(), x.begin() + min(k, x.size())); }
template <class C> void TAKE(C& x, size_t k) { x.resize(min(k, x.size())); }
template <class C> void ROT(C& x, size_t k) {
    rotate(x.begin(), x.begin() + min(k, x.size()), x.end());
}
template <class C> void ALT(C& x) {
    C y;
    for (size_t i = 0; i < x.size(); i += 2) y.push_back(x[i]);
    x = y;
}
template <class C> void UNIQ(C& x) {
    C y;
    for (auto v : x) if (find(y.begin(), y.end(), v) == y.end()) y.push_back(v);
    x = y;
}
inline void SUMS(vector<long>& x) { partial_sum(x.begin(), x.end(), x.begin()); }
inline void DOUBLE(string& x) {
    string y;
    for (char c : x) y += string(2, c);
    x = y;
}
inline void REPEAT(string& x, int k) {
    string y;
    while (k-- > 0) y += x;
    x = y;
}
inline void WORDS(string& x) {
    string y, word;
    for (char c : x + " ") {
        if (c != ' ') { word += c; continue; }
        if (!word.empty()) y = y.empty() ? word : word + " " + y;
        word.clear();
    }
    x = y;
}
template <class C> long LEN(const C& x) { return x.size(); }
template <class C> long DISTINCT(const C& x) { return set<long>(x.begin(), x.end()).size(); }
template <class C> bool PAL(const C& x) { return C(x.rbegin(), x.rend()) == x; }
inline long SUM(const vector<long>& x) { return accumulate(x.begin(), x.end(), 0L); }
inline long MAX(const vector<long>& x) { return *max_element(x.begin(), x.end()); }
inline long MIN(const vector<long>& x) { return *min_element(x.begin(), x.end()); }
inline long VOWELS(const string& x) { return count_if(x.begin(), x.end(), VOWEL); }
"""
