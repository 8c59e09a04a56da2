"""Finds a control by name: a module of this package, or a file of the user's own."""

import json
from pathlib import Path
from typing import Any

from selfreg.control import between, within
from selfreg.control.protocol import Between, Within
from selfreg.run.find import find


def find_within(name: str) -> Within:
    """Find the control within campaigns that config.within names.

    Args:
      name: A module of selfreg.control.within, or the path of a Python file; both define CONTROL.

    Raises:
      ValueError: There is none of that name, or its file defines no CONTROL of this kind.
    """
    return find(name, within, "CONTROL", Within, "config.within")


def find_between(name: str) -> Between:
    """Find the control between campaigns that config.between names; see find_within."""
    return find(name, between, "CONTROL", Between, "config.between")


def find_calibration(name: str) -> dict[str, Any]:
    """Read the predictor's calibration that config.control.predictor_calibration names.

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
