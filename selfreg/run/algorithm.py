"""Finds the algorithm that a config names, with its settings as keys of config.learn."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from selfreg import algorithms
from selfreg.algorithms.parts.algorithm import Algorithm
from selfreg.algorithms.parts.keys import Key, Rule
from selfreg.algorithms.parts.settings import Settings, keys_of
from selfreg.run.find import find, known


def names() -> tuple[str, ...]:
    """Return the names of the algorithms that come with selfreg."""
    return known(algorithms)


def find_algorithm(name: str) -> Algorithm:
    """Find the algorithm that config.learn.algorithm names, with its default settings.

    Args:
      name: A module of selfreg.algorithms, or the path of a Python file; both define ALGORITHM.

    Raises:
      ValueError: There is no algorithm of that name, its file defines no Algorithm, or its settings
        cannot be a key of compiled programs.
    """
    key = "config.learn.algorithm"
    found: Algorithm = find(name, algorithms, "ALGORITHM", Algorithm, key)
    known_fields = is_dataclass(found.settings) and keys_of(found.settings)
    if not known_fields or "token_aggregation" not in known_fields:
        raise ValueError(
            f"{key}={name!r}: its settings must be a dataclass with a field token_aggregation"
        )
    try:
        hash(found)
    except TypeError as error:
        raise ValueError(
            f"{key}={name!r}: no program can be compiled for it ({error}): make its settings a "
            "dataclass with frozen=True, and their values hashable, such as tuples"
        ) from None
    return replace(found, name=Path(name).stem)


@cache
def setting_keys() -> Mapping[str, Key]:
    """Return the settings of all algorithms that come with selfreg, as keys of config.learn."""
    keys = keys_of(Settings)
    for name in names():
        keys = {**keys_of(find_algorithm(name).settings), **keys}
    return keys


def defaults(algorithm: Algorithm) -> dict[str, Any]:
    """Return the values that an algorithm gives the keys of config.learn left open.

    A setting that the algorithm does not read gets the value that changes nothing.
    """
    read = keys_of(algorithm.settings)
    return {
        name: getattr(algorithm.settings, name) if name in read else key.default
        for name, key in setting_keys().items()
    }


def configure(algorithm: Algorithm, learn: Any) -> Algorithm:
    """Return the algorithm with the settings of a config's section `learn`.

    Args:
      algorithm: From `find_algorithm`.
      learn: The section, with nothing left open.

    Raises:
      ValueError: One of learn.options is no setting of the algorithm, or has another type.
    """
    options = _options(algorithm, learn.options)
    shared = {name: learn[name] for name in keys_of(algorithm.settings) if name in setting_keys()}
    return replace(algorithm, settings=replace(algorithm.settings, **shared, **options))


def rules(algorithm: Algorithm, learn: Any) -> dict[str, Rule]:
    """Return the rules that an algorithm sets for a config's keys, by dotted name.

    Args:
      algorithm: From `find_algorithm`.
      learn: The config's section, with nothing left open.

    Raises:
      ValueError: As `configure`.
    """
    own = defaults(algorithm)
    unread = setting_keys().keys() - keys_of(algorithm.settings).keys()
    fixed = {
        f"learn.{name}": Rule(
            lambda value, wanted=own[name]: value == wanted,  # type: ignore[misc]
            f"{own[name]!r}: learn.algorithm={algorithm.name!r} reads no other",
        )
        for name in sorted({*unread, *algorithm.fixed})
    }
    settings = configure(algorithm, learn).settings
    others = {key: rule for key, rule in algorithm.check(settings).items() if key not in fixed}
    return {**fixed, **others}


def _options(algorithm: Algorithm, options: Sequence[str]) -> dict[str, Any]:
    """Parse NAME=VALUE for the settings that are no keys of the config."""
    own = {n: k for n, k in keys_of(algorithm.settings).items() if n not in setting_keys()}
    values = {}
    for option in options:
        name, given, text = option.partition("=")
        if not given or name not in own:
            there = ", ".join(own) or "none"
            raise ValueError(
                f"config.learn.options: {option!r} must be NAME=VALUE with a setting of "
                f"{algorithm.name!r} that is no key of its own ({there})"
            )
        key = own[name]
        values[name] = _parsed(option, text, type(key.default))
        if not key.rule.holds(values[name]):
            raise ValueError(
                f"config.learn.options: {option!r} is not possible: must be {key.rule.words}"
            )
    return values


def _parsed(option: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"config.learn.options: {option!r} is no {kind.__name__}")
    return value
