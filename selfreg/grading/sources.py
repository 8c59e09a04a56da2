"""C++: the translation units of a problem's tests and of a program, which share nothing.

The program is compiled alone, with a driver that answers calls of the entry point. The tests are
compiled with a stub in its place, a function of the declared type that has a call answered in the
other process (native/carry.h). The compiler works the types out: the declaration is only copied.
"""

import functools
import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<skip>//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:\\\n|[^\n])*)
    |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[(){};]|\S""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)

# The types of a function that a problem may leave undeclared, and where the latter are found.
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
# What can come before a declaration and changes no word of it.
_INCLUDE = re.compile(r"(#[ \t]*include[ \t]*<[\w./+-]+>)?[ \t]*")
_PLAIN_RESTS: tuple[list[str], ...] = ([], ["using", "namespace", "std;"])
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
# The types of a list, each with the commas between its own brackets.
_PARTS = re.compile(r"(?:[^,<>]|<(?:[^<>]|<(?:[^<>]|<[^<>]*>)*>)*>)+")
# The last word of a parameter, unless it belongs to the type.
_PARAMETER_NAME = re.compile(rf"(?<=[\s&>])(?!(?:{'|'.join(_WORDS)})\b)\w+\s*(?=,|$)")


class Declaration(NamedTuple):
    """The entry point as the problem declares it.

    Attributes:
      context: What comes before: includes, helpers, names of types.
      signature: Its result, name and parameters.
      name: Its name.
    """

    context: str
    signature: str
    name: str

    @property
    def directives(self) -> str:
        """The lines of the context that are for the preprocessor."""
        return "".join(
            f"{match[0]}\n"
            for match in _TOKEN.finditer(self.context)
            if match[0].lstrip().startswith("#")
        )

    @property
    def rest(self) -> str:
        """The context without them."""
        return _TOKEN.sub(
            lambda match: "" if match[0].lstrip().startswith("#") else match[0], self.context
        )


@functools.lru_cache(maxsize=4)  # the completions of one problem come in a row
def declare(sources: tuple[str, ...], name: str) -> Declaration | None:
    """Find where the first of some sources begins to define a function; None where none does.

    Args:
      sources: Such as a problem's starter and its solution. They may end anywhere.
      name: The function's.
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
    """The declaration of a function as a program has it, for a problem that declares none.

    Nothing of the program's text is taken but words of a fixed list: types of the language and of
    the standard library. None where it is made of anything else.
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
    """The types of the library that calls of a function carry, in plain words; without repeats.

    Such types mean the same in every problem, and so code for them can be compiled once for many.

    Returns:
      Nothing where what comes before the declaration could give one of the words another meaning,
      or where one of the types has a name of its own.
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
    """The translation unit that has types of the library carried."""
    heads = "".join(f"#include <{head}>\n" for head in _CONTAINERS.values())
    return f'{heads}#include "carry.h"\n{_carriers(types, "template")}'


def _carriers(types: tuple[str, ...], begin: str) -> str:
    lines = [f"{begin} void put<{t}>(const {t}&); {begin} {t} get<{t}>();\n" for t in types]
    return f"namespace selfreg_carry {{\n{''.join(lines)}}}\n" if types else ""


def _split(declaration: Declaration) -> re.Match[str] | None:
    """A declaration's result, name and parameters."""
    match = re.fullmatch(r"(.*?)\b(\w+)\s*\((.*)\)", declaration.signature, re.DOTALL)
    return match if match and match[2] == declaration.name else None


def _plain(types: str) -> str | None:
    """Types in plain words, with the namespace in place; None where other words are among them."""
    tokens = re.findall(r"\w+|::|[^\w\s]", types)
    if not all(token in (*_WORDS, "std", "::", "<", ">", ",", "&") for token in tokens):
        return None
    words = [token for token in tokens if token not in ("std", "::")]
    return " ".join(f"std::{word}" if word in _CONTAINERS else word for word in words)


def tests_unit(setup: str, declaration: Declaration, tests: str, carried: tuple[str, ...]) -> str:
    """The translation unit of a problem's tests; `native/tests.cpp` is linked to it.

    Args:
      setup: Comes first.
      declaration: The function's.
      tests: With a `main`.
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
    """The translation unit of a program; `native/program.cpp` is linked to it. See `tests_unit`."""
    # Declared before the program, whose macros could give the types another meaning. The helpers
    # are in a namespace, for a program may bring its own.
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
    """The translation unit of a program that has a `main` of its own."""
    return _join(setup=setup, program=program)


def _join(**parts: str) -> str:
    return "".join(f'#line 1 "{name}.cpp"\n{text}\n' for name, text in parts.items() if text)
