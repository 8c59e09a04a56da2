"""Find the config file that --config names: a file, or the name of one that ships with selfreg."""

import difflib
import importlib
import os
import sys
from pathlib import Path

# Beside the package, in a clone and where pip installs it.
FOLDER = Path(__file__).parents[2] / "configs"


def names() -> tuple[str, ...]:
    """The configs that ship with selfreg, in alphabetical order."""
    files = sorted(FOLDER.glob("*.py"))
    return tuple(file.stem for file in files if "def get_config(" in file.read_text())


def config_file(text: str) -> str:
    """The config file, with its variant, that the value of --config stands for.

    Config files share code as `from configs import NAME`. From here on that import finds, in this
    order, the neighbours of a file in a folder `configs`, the user's own ./configs, and what ships.

    Args:
      text: FILE.py or NAME, either with :VARIANT after it. A file that exists goes before a name.
        `configs/NAME.py`, where there is no such file, is read as NAME.

    Returns:
      FILE.py or FILE.py:VARIANT, where the file exists.

    Raises:
      ValueError: There is neither such a file nor such a name.
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
    """Let `from configs import NAME` find what a config file shares."""
    if os.getcwd() not in sys.path:  # a console script does not look here
        sys.path.append(os.getcwd())
    package = importlib.import_module(FOLDER.name)
    own = [str(neighbours)] if neighbours.name == FOLDER.name else []
    # A user's configs/__init__.py would hide what ships.
    found = [*own, *getattr(package, "__path__", ()), str(FOLDER)]
    package.__path__ = list(dict.fromkeys(found))
