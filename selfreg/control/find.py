"""Controls by name: a module of this package, or a file of the user's own."""

import importlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from selfreg.control import between, within
from selfreg.control.protocol import Between, Within


def find_within(name: str) -> Within:
    """The control within campaigns that config.within names.

    Args:
      name: A module of selfreg.control.within, or the path of a Python file; both define CONTROL.

    Raises:
      ValueError: There is none of that name, or its file defines no CONTROL of this kind.
    """
    return _find(name, within, Within, "config.within")


def find_between(name: str) -> Between:
    """The control between campaigns that config.between names; see find_within."""
    return _find(name, between, Between, "config.between")


def find_calibration(name: str) -> dict[str, Any]:
    """The calibration of the predictor that config.control.predictor_calibration names.

    Args:
      name: "tiny", which ships with the package, or a file that `python -m selfreg.calibrate` made.

    Raises:
      ValueError: There is none, or it cannot be read.
    """
    shipped = Path(within.__path__[0]) / f"predictor_{name}.json"
    file = shipped if shipped.is_file() else Path(name)
    try:
        calibration = json.loads(file.read_text())
        return {key: calibration[key] for key in ("model", "budgets")}
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"config.control.predictor_calibration={name!r} is no calibration ({error!r}): name "
            "tiny, or a file that python -m selfreg.calibrate made"
        ) from None


def _find(name: str, package: ModuleType, kind: type, key: str) -> Any:
    folder = Path(package.__path__[0])
    if name.endswith(".py"):
        module = _load(Path(name), key)
    elif (folder / f"{name}.py").is_file():
        module = importlib.import_module(f"{package.__name__}.{name}")
    else:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__"))
        raise ValueError(f"{key}={name!r}: name a .py file, or one of {known}")
    control = getattr(module, "CONTROL", None)
    if not isinstance(control, kind):
        raise ValueError(f"{key}={name!r}: its CONTROL must be a {kind.__name__}, is {control!r}")
    return control


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
