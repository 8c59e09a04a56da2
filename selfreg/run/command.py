"""Start a command, print its --help, and end it with an exit code that tells the outcome.

Every command is a module with absl flags, a `main`, and a `run` that calls `run` of this module.
absl's flags are global, so this module declares none.
"""

import difflib
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

_HELP = ("help", "helpfull", "helpshort", "h", "?")
# Errors of the operating system that a user can fix by naming another file or folder.
_WRONG_FILE = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class Exit(IntEnum):
    """The exit codes of all commands.

    Attributes:
      OK: The command succeeded.
      FAILED: The call was valid but failed, or the answer to its question is no.
      MISTAKE: A flag, an argument or a file is wrong. The command did not start its work.
      ALARM: `selfreg watch` found a collapse.
      INTERRUPTED: The user pressed Ctrl-C.
    """

    OK = 0
    FAILED = 1
    MISTAKE = 2
    ALARM = 3
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Command:
    """The names, the arguments and the help of a command.

    Attributes:
      verb: The command's name after `selfreg`.
      module: The command's name after `python -m`.
      usage: The flags and arguments of a typical call.
      arguments: The arguments without dashes, as --help shows them; "" if there are none.
      prepare: Rewrites the arguments before absl reads them; may raise ValueError.
      names: Names of flags that the module does not declare itself, for suggestions.
      details: Returns the text that --help prints after the flags: all of it for "", else the
        entries that contain the given word.
    """

    verb: str
    module: str
    usage: str
    arguments: str = ""
    prepare: Callable[[list[str]], list[str]] = list
    names: Callable[[], Iterable[str]] = tuple
    details: Callable[[str], str] = lambda word: ""


def run(main: Callable[[list[str]], int | None], command: Command) -> NoReturn:
    """Parse the flags, call `main`, and exit.

    `main` gets the arguments without dashes, and returns an exit code, or None for OK. If it raises
    ValueError, ImportError or an error about a file, the user made a mistake. Any other OSError is
    a failure. Both are reported in one line.

    Args:
      main: A function in the command's module. The flags of that module are the command's flags.
      command: The names, the arguments and the help of the command.
    """
    holders = {
        holder.name: holder
        for holder in main.__globals__.values()
        if isinstance(holder, flags.FlagHolder)
    }

    def parse(arguments: list[str]) -> list[str]:
        word = _help_word(arguments)
        if word is not None:
            _print_help(command, main.__globals__["__doc__"], list(holders), word)
        try:
            left = flags.FLAGS(command.prepare(arguments))
            _refuse_what_is_not_used(command, left[1:], holders)
            return left
        except flags.UnrecognizedFlagError as error:
            return fail(_unknown_flag(command, error.flagname, holders))
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
            # ml_collections puts the whole traceback of a config file into its message, so only the
            # last line is shown.
            return fail(str(error).strip().splitlines()[-1])

    def guarded(arguments: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:  # else the libraries' logs bury the answer
            absl_logging.set_verbosity(absl_logging.ERROR)
            logging.getLogger("selfreg").setLevel(logging.WARNING)
        try:
            return main(arguments[1:]) or Exit.OK
        except (ValueError, ImportError, *_WRONG_FILE) as error:
            return fail(error)
        except OSError as error:
            return fail(error, Exit.FAILED)
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return Exit.INTERRUPTED

    app.run(guarded, flags_parser=parse)
    raise AssertionError("absl's app.run does not return")


def fail(error: BaseException | str, code: Exit = Exit.MISTAKE) -> NoReturn:
    """Print an error in one line, and exit."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(code)


def nearest(name: str, known: Iterable[str]) -> str:
    """Ask whether `name` was meant to be a similar known name; return "" if none is similar.

    A known name whose part after the last dot is the same counts as similar: `seed` may mean
    `config.seed`.
    """
    every = list(known)
    last = name.rpartition(".")[2]
    meant = [k for k in every if "." in k and k.rpartition(".")[2] == last]
    meant += difflib.get_close_matches(name, every, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(list(dict.fromkeys(meant))[:3])}?" if meant else ""


def not_a_flag(argument: str, known: Iterable[str]) -> str:
    """Return the error for an argument without dashes, for a command that takes none."""
    named = argument.partition("=")[0] in known
    hint = f"; did you mean --{argument}?" if named and "=" in argument else ""
    return f"{argument!r} is no flag, and nothing else is taken here{hint} (--help lists the flags)"


def entry(head: str, meaning: str) -> str:
    """Format an entry of --help: a flag, and below it its meaning."""
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    body = textwrap.fill(meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  {head}\n{body}"


def matching(entries: Iterable[str], word: str) -> list[str]:
    """Return the entries of --help that contain a word, in any case; all entries for ""."""
    return [text for text in entries if word.lower() in text.lower()]


def _help_word(arguments: Sequence[str]) -> str | None:
    """Return the word that --help is asked about, "" if it has none, None if there is no --help."""
    for position, argument in enumerate(arguments[1:], 1):
        name, _, word = argument.partition("=")
        if name.startswith("-") and name.lstrip("-") in _HELP:
            after = [a for a in arguments[position + 1 :] if not a.startswith("-")]
            return word or " ".join(after)
        if argument == "--":
            break
    return None


def _print_help(command: Command, doc: str, names: Sequence[str], word: str) -> NoReturn:
    shown = matching([_flag_entry(flags.FLAGS[name]) for name in names], word)
    details = command.details(word)
    if word and not shown and not details:
        fail(f"--help {word}: no flag holds this word{nearest(word, [*names, *command.names()])}")
    parts = []
    if not word:
        ways = (f"selfreg {command.verb}", f"python -m {command.module}")
        parts.append("\n".join(f"usage: {way} {command.usage}".rstrip() for way in ways))
        parts.append(doc.strip())
    if shown:
        parts.append("\n".join(["Flags:", *shown]))
    try:
        print("\n\n".join([*parts, *([details] if details else [])]), flush=True)
    except BrokenPipeError:  # `--help | head` closes the pipe; Python flushes again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(Exit.OK)


def _flag_entry(flag: flags.Flag) -> str:
    """Format a flag with its default and its meaning."""
    kind = flag.flag_type()
    meaning = str(flag.help).partition(";\n    repeat this option")[0]  # absl's addition
    if isinstance(flag, flags.EnumFlag):
        meaning = meaning.rpartition(">: ")[2]
        meaning += f" One of {', '.join(flag.parser.enum_values)}."
    default = flag.default
    if kind == "bool":
        return entry(f"--[no]{flag.name}", meaning)
    if isinstance(default, list):
        default = ",".join(map(str, default))
    shown = "" if default in (None, "") else f"={default}"
    return entry(f"--{flag.name}{shown}", meaning)


def _refuse_what_is_not_used(
    command: Command, arguments: Sequence[str], holders: dict[str, Any]
) -> None:
    """Refuse arguments that the command does not take, and empty values of text flags."""
    if arguments and not command.arguments:
        raise ValueError(not_a_flag(arguments[0], [*holders, *command.names()]))
    for name in holders:
        flag = flags.FLAGS[name]
        if flag.flag_type() == "string" and flag.present and flag.value == "" != flag.default:
            raise ValueError(f"--{name}= is empty: give it a value, or leave it out")


def _unknown_flag(command: Command, name: str, holders: dict[str, Any]) -> str:
    hint = nearest(name, [*holders, *command.names()])
    hint = hint.replace("mean ", "mean --").replace(" or ", " or --")
    return f"there is no flag --{name}{hint} (selfreg {command.verb} --help lists all)"
