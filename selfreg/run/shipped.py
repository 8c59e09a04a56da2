"""Find the config file that --config names: a path, or the name of a config that selfreg ships."""

import difflib
import importlib
import os
import sys
from pathlib import Path

# This folder is next to the package, both in a clone and in an installation by pip.
FOLDER = Path(__file__).parents[2] / "configs"


def names() -> tuple[str, ...]:
    """List the configs that ship with selfreg, in alphabetical order."""
    files = sorted(FOLDER.glob("*.py"))
    return tuple(file.stem for file in files if "def get_config(" in file.read_text())


def config_file(text: str) -> str:
    """Find the file for a value of --config, and make its imports of shared code work.

    Config files share code by `from configs import NAME`. After this call, that import searches in
    this order: the folder of the config file, if its name is `configs`; the user's ./configs; and
    the configs that ship with selfreg.

    Args:
      text: FILE.py or NAME, each with an optional :VARIANT. An existing file takes precedence over
        a name. If `configs/NAME.py` does not exist, it is read as NAME.

    Returns:
      FILE.py or FILE.py:VARIANT. The file exists.

    Raises:
      ValueError: Neither a file nor a shipped config has this name.
    """
    name, colon, variant = text.partition(":")
    file = Path(name)
    if not file.is_file():
        file = _shipped(file, text)
    _share(file.absolute().parent)
    return f"{file}{colon}{variant}"


def _shipped(file: Path, text: str) -> Path:
    is_name = str(file.parent) in (".", FOLDER.name)
    known = names()
    if is_name and file.suffix in ("", ".py") and file.stem in known:
        return FOLDER / f"{file.stem}.py"
    close = difflib.get_close_matches(file.stem, known, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ValueError(
        f"--config={text}: there is no such file or shipped config; {meant}The shipped ones are "
        f"{', '.join(known)}"
    )


def _share(neighbours: Path) -> None:
    """Let `from configs import NAME` find the code that config files share."""
    if os.getcwd() not in sys.path:  # a console script does not search this folder
        sys.path.append(os.getcwd())
    package = importlib.import_module(FOLDER.name)
    own = [str(neighbours)] if neighbours.name == FOLDER.name else []
    # A user's configs/__init__.py would hide the shipped configs.
    found = [*own, *getattr(package, "__path__", ()), str(FOLDER)]
    package.__path__ = list(dict.fromkeys(found))
