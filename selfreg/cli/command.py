"""What commands over a config share: flags parsed, a config read, a mistake told in one line.

absl's flags are global, so nothing here declares one: a command does.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import FrozenConfigDict, config_flags

from selfreg.run.config import describe
from selfreg.run.validate import check_names, resolve


def parse_flags(arguments: list[str], doc: str | None) -> list[str]:
    """Parse flags for absl's `app.run`; a user's mistake ends in one line, not in a traceback.

    Args:
      arguments: The command line.
      doc: The command's docstring, which --help prints before the keys.

    Returns:
      What is left of the arguments.
    """
    if any(argument in ("--help", "-help", "-h") for argument in arguments):
        print(f"{doc}\nKeys, their defaults and what they mean:\n{describe()}")
        sys.exit(0)
    # Config files import what they share as configs.NAME; a console script does not look here.
    sys.path.append(os.getcwd())
    try:
        # ml_collections would name an unknown key and nothing else.
        check_names(
            argument.partition("=")[0].removeprefix("--config.")
            for argument in arguments
            if argument.startswith("--config.")
        )
        return flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        # ml_collections puts a config file's whole traceback into its message.
        return fail(ValueError(str(error).strip().splitlines()[-1]))


def leave_torch_out() -> None:
    """Have transformers and tensorboardX do without torch, which they would load if it is there.

    That takes two seconds, and nothing of theirs that a trainer uses needs it. What imports torch
    itself still can.
    """
    if "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # as if it were not installed
    importlib.import_module("tensorboardX")
    importlib.import_module("transformers.utils").is_torch_available()  # it remembers the answer
    del sys.modules["torch"]


def fail(error: BaseException) -> NoReturn:
    """Say what is wrong and exit with code 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def read_config(holder: flags.FlagHolder) -> FrozenConfigDict:
    """The resolved config that the flag `holder`, of `DEFINE_config_file`, names.

    Raises:
      ValueError: There is no such file, or a value is impossible.
    """
    if holder.value is None:
        raise ValueError("--config is missing: name a file, such as --config=configs/tiny.py")
    file = config_flags.get_config_filename(flags.FLAGS[holder.name])
    if not Path(file.partition(":")[0]).is_file():
        raise ValueError(f"--config={file}: there is no such file")
    return resolve(holder.value)
