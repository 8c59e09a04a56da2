"""Compose C++ translation units: one for a problem's tests, and a separate one for a program.

The program is compiled alone, with a driver that answers calls of the entry point. The tests are
compiled with a stub in place of the entry point: a function of the declared type, whose calls the
other process answers (native/carry.h). The declaration is only copied. The compiler resolves its
types.
"""

import functools
import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<skip>//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:\\\n|[^\n])*)
    |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[(){};]|\S""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)

# The types allowed in a function that its problem does not declare, and the headers of library
# types.
_CONTAINERS = {
    "deque": "deque",
    "list": "list",
    "map": "map",
    "pair": "utility",
    "set": "set",
    "string": "string",
    "unordered_map": "unordered_map",
    "unordered_set": "unordered_set",
    "vector": "vector",
}
_WORDS = (
    *("bool", "char", "short", "int", "long", "unsigned", "signed", "float", "double", "void"),
    *("const", "size_t", *_CONTAINERS),
)
# Lines that may precede a declaration because they change the meaning of no word in it.
_INCLUDE = re.compile(r"(#[ \t]*include[ \t]*<[\w./+-]+>)?[ \t]*")
_PLAIN_RESTS: tuple[list[str], ...] = ([], ["using", "namespace", "std;"])
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
# One type of a comma-separated list, including the commas inside its own brackets.
_PARTS = re.compile(r"(?:[^,<>]|<(?:[^<>]|<(?:[^<>]|<[^<>]*>)*>)*>)+")
# The last word of a parameter, unless it is part of the type.
_PARAMETER_NAME = re.compile(rf"(?<=[\s&>])(?!(?:{'|'.join(_WORDS)})\b)\w+\s*(?=,|$)")


class Declaration(NamedTuple):
    """The entry point as the problem declares it.

    Attributes:
      context: The source before it: includes, helpers, names of types.
      signature: Its result type, name and parameters.
      name: Its name.
    """

    context: str
    signature: str
    name: str

    @property
    def directives(self) -> str:
        """The preprocessor lines of the context."""
        return "".join(
            f"{match[0]}\n"
            for match in _TOKEN.finditer(self.context)
            if match[0].lstrip().startswith("#")
        )

    @property
    def rest(self) -> str:
        """The context without its preprocessor lines."""
        return _TOKEN.sub(
            lambda match: "" if match[0].lstrip().startswith("#") else match[0], self.context
        )


@functools.lru_cache(maxsize=4)  # the completions of one problem come in a row
def declare(sources: tuple[str, ...], name: str) -> Declaration | None:
    """Return the declaration from the first source that defines a function; None if none does.

    Args:
      sources: For example, a problem's starter and its solution. Each may end anywhere.
      name: The function's name.
    """
    for source in sources:
        start, braces, parentheses = -1, 0, 0
        found = None
        for token in _TOKEN.finditer(source):
            text = token[0]
            if token["skip"]:
                continue
            if start < 0:
                start = token.start()
            parentheses += (text == "(") - (text == ")")
            if text == "{" and not parentheses:
                signature = source[start : token.start()].strip()
                if not braces and re.search(rf"\b{re.escape(name)}\s*\(", signature):
                    found = Declaration(source[:start], signature, name)
                braces += 1
            elif text == "}" and not parentheses:
                braces -= 1
            if text in (";", "}") and not braces and not parentheses:
                start = -1
        if found:
            return found
    return None


def declare_plainly(program: str, name: str) -> Declaration | None:
    """Return a function's declaration as a program has it, for a problem that declares none.

    Only words of a fixed list are taken from the program: types of the language and of the standard
    library. The result is None if the declaration contains any other word.
    """
    found = declare((program,), name)
    match = _split(found) if found else None
    if not match:
        return None
    result = _plain(match[1])
    parameters = _plain(_PARAMETER_NAME.sub("", match[3]))
    if result is None or parameters is None:
        return None
    heads = "".join(f"#include <{head}>\n" for head in _CONTAINERS.values())
    return Declaration(f"{heads}using namespace std;\n", f"{result} {name}({parameters})", name)


def carried_types(setup: str, declaration: Declaration) -> tuple[str, ...]:
    """Return the library types that calls of a function carry, in plain words, without repeats.

    Such types mean the same in every problem, so that code for them can be compiled once for many
    problems.

    Returns:
      The types; empty if the text before the declaration could change the meaning of a word, or if
      one of the function's types is not in plain words.
    """
    directives = f"{setup}\n{declaration.directives}".split("\n")
    rest = _COMMENT.sub("", declaration.rest).split()
    if not all(_INCLUDE.fullmatch(line.strip()) for line in directives) or rest not in _PLAIN_RESTS:
        return ()
    match = _split(declaration)
    plain = match and (_plain(match[1]), _plain(_PARAMETER_NAME.sub("", match[3])))
    if not plain or None in plain:
        return ()
    parts = [type_.strip() for types in plain if types for type_ in _PARTS.findall(types)]
    bare = [re.sub(r"^const | const$| ?&$", "", re.sub(r" ?&$", "", part)) for part in parts]
    if any("const" in type_ or "&" in type_ for type_ in bare):
        return ()
    return tuple(sorted({type_ for type_ in bare if "std::" in type_}))


def carriers_unit(types: tuple[str, ...]) -> str:
    """Return the translation unit with the code that carries these library types."""
    heads = "".join(f"#include <{head}>\n" for head in _CONTAINERS.values())
    return f'{heads}#include "carry.h"\n{_carriers(types, "template")}'


def _carriers(types: tuple[str, ...], begin: str) -> str:
    lines = [f"{begin} void put<{t}>(const {t}&); {begin} {t} get<{t}>();\n" for t in types]
    return f"namespace selfreg_carry {{\n{''.join(lines)}}}\n" if types else ""


def _split(declaration: Declaration) -> re.Match[str] | None:
    """Match a declaration's result type, name and parameters."""
    match = re.fullmatch(r"(.*?)\b(\w+)\s*\((.*)\)", declaration.signature, re.DOTALL)
    return match if match and match[2] == declaration.name else None


def _plain(types: str) -> str | None:
    """Return types in plain words with std:: added; None if there is any other word."""
    tokens = re.findall(r"\w+|::|[^\w\s]", types)
    if not all(token in (*_WORDS, "std", "::", "<", ">", ",", "&") for token in tokens):
        return None
    words = [token for token in tokens if token not in ("std", "::")]
    return " ".join(f"std::{word}" if word in _CONTAINERS else word for word in words)


def tests_unit(setup: str, declaration: Declaration, tests: str, carried: tuple[str, ...]) -> str:
    """Return the translation unit of a problem's tests, to link with `native/tests.cpp`.

    Args:
      setup: Source that comes first.
      declaration: The function's declaration.
      tests: The tests, with a `main`.
      carried: The types that another object carries (`carriers_unit`).
    """
    name = declaration.name
    stub = f"""\
{_carriers(carried, "extern template")}namespace selfreg_declared {{ {declaration.signature}; }}
{declaration.signature};
template <class> struct selfreg_stub;
template <class R, class... A> struct selfreg_stub<R (*)(A...)> {{
    friend R {name}(A... given) {{ return selfreg_carry::call<R, A...>(given...); }}
}};
template struct selfreg_stub<decltype(&selfreg_declared::{name})>;
"""
    return _join(setup=setup, starter=declaration.context, stub=stub, tests=tests)


def program_unit(
    setup: str, declaration: Declaration, program: str, carried: tuple[str, ...]
) -> str:
    """Return the translation unit of a program, to link with `native/program.cpp`.

    For the arguments see `tests_unit`.
    """
    # The declaration precedes the program, whose macros could change the meaning of its types. The
    # helpers are in a namespace, because a program may bring its own.
    declared = f"""\
{declaration.directives}{_carriers(carried, "extern template")}namespace selfreg_declared {{
using namespace std;
{declaration.rest}
{declaration.signature};
}}
using selfreg_type = decltype(&selfreg_declared::{declaration.name});
"""
    driver = f"""\
void selfreg_answer() {{
    selfreg_carry::answer(selfreg_type(), [](auto&&... selfreg_x)
        -> decltype({declaration.name}(static_cast<decltype(selfreg_x)>(selfreg_x)...)) {{
        return {declaration.name}(static_cast<decltype(selfreg_x)>(selfreg_x)...);
    }});
}}
"""
    return _join(setup=setup, starter=declared, program=program, driver=driver)


def whole_unit(setup: str, program: str) -> str:
    """Return the translation unit of a program that has its own `main`."""
    return _join(setup=setup, program=program)


def _join(**parts: str) -> str:
    return "".join(f'#line 1 "{name}.cpp"\n{text}\n' for name, text in parts.items() if text)
