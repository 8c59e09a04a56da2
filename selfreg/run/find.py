"""Finds the part of a run that a config names: a module of a package, or a user's file."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any


def known(package: ModuleType) -> tuple[str, ...]:
    """Return the names that `find` accepts for a package: its modules, in alphabetical order."""
    files = Path(package.__path__[0]).glob("*.py")
    return tuple(sorted(file.stem for file in files if file.stem != "__init__"))


def find(name: str, package: ModuleType, attribute: str, kind: type, key: str) -> Any:
    """Find the object that a config's key names.

    Args:
      name: A module of the package, or the path of a Python file.
      package: The package of the modules.
      attribute: The name of the object in the module or file.
      kind: The type that the object must have.
      key: The config's key, for messages.

    Raises:
      ValueError: There is no module or file of that name, or it defines no such object.
    """
    if name.endswith(".py"):
        module = _load(Path(name), key)
    elif name in known(package):
        module = importlib.import_module(f"{package.__name__}.{name}")
    else:
        raise ValueError(f"{key}={name!r}: name a .py file, or one of {', '.join(known(package))}")
    found = getattr(module, attribute, None)
    if not isinstance(found, kind):
        raise ValueError(f"{key}={name!r}: its {attribute} must be a {kind.__name__}, is {found!r}")
    return found


def _load(file: Path, key: str) -> ModuleType:
    if not file.is_file():
        raise ValueError(f"{key}={str(file)!r}: there is no such file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{key}={str(file)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        raise ValueError(f"{key}={str(file)!r} cannot be imported: {error!r}") from error
    return module
