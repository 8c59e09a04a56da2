"""Start the commands that read a config: find the file of --config, and check the keys."""

from collections.abc import Callable
from typing import NoReturn

from absl import flags
from ml_collections import FrozenConfigDict

from selfreg.run import command, shipped
from selfreg.run.config import KEYS, describe
from selfreg.run.validate import check_names, resolve

_SETTING = "--config."


def run(
    main: Callable[[list[str]], int | None],
    verb: str,
    module: str,
    usage: str,
    *,
    lists_keys: bool = False,
) -> NoReturn:
    """Run a command whose flag --config was defined by `DEFINE_config_file`.

    Args:
      main: As in `selfreg.run.command.run`.
      verb: The command's name after `selfreg`.
      module: The command's name after `python -m`.
      usage: The flags of a typical call.
      lists_keys: Whether a plain --help lists every key. If not, it lists keys only for a given
        word.
    """
    command.run(
        main,
        command.Command(
            verb,
            module,
            usage,
            prepare=prepare,
            names=config_flags,
            details=describe if lists_keys else find_keys,
        ),
    )


def config_flags() -> tuple[str, ...]:
    """Return the names of the flags that set single keys."""
    return tuple(f"config.{name}" for name in KEYS)


def find_keys(word: str) -> str:
    """Describe the config keys that contain a word; without a word, say how to list them."""
    return describe(word) if word else "selfreg train --help lists the keys of a config."


def prepare(arguments: list[str]) -> list[str]:
    """Replace the value of --config by the path of its file, and refuse unknown keys.

    The check is made here because ml_collections' own error names the unknown key and nothing else.

    Raises:
      ValueError: The file or a key does not exist, or a key is set without --config.
    """
    done, is_value, is_named = [], False, False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if is_value or (equals and flag in ("--config", "-config")):
            if not (argument if is_value else value):
                raise ValueError("--config= is empty: name a config, such as --config=tiny")
            found = shipped.config_file(argument if is_value else value)
            argument, is_named = found if is_value else f"{flag}={found}", True
        is_value = argument in ("--config", "-config")
        done.append(argument)
    settings = [a.partition("=")[0] for a in arguments if a.startswith(_SETTING)]
    check_names(name.removeprefix(_SETTING) for name in settings)
    if settings and not is_named:
        raise ValueError(f"{settings[0]} sets a key of which config? name it first: --config=tiny")
    return done


def read_config(holder: flags.FlagHolder) -> FrozenConfigDict:
    """Return the resolved config of the flag `holder`, which `DEFINE_config_file` made.

    Raises:
      ValueError: --config is missing, or a value is not allowed.
    """
    if holder.value is None:
        raise ValueError("--config is missing: name one, such as --config=tiny, or a file")
    return resolve(holder.value)
