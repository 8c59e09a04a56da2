"""A key of a config: its default, what it means, and what it may be."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """What a value may be: a test, and the words that an error says it in."""

    holds: Callable[[Any], bool]
    words: str


ANYTHING = Rule(lambda _: True, "anything")


class Key(NamedTuple):
    """One key: its default, what it means, and what is allowed beyond its type."""

    default: Any
    meaning: str
    rule: Rule = ANYTHING


class Open(NamedTuple):
    """The default of a key that something else decides, unless a config sets it."""

    kind: type
    words: str


def one_of(*values: str) -> Rule:
    """One of a few words."""
    return Rule(lambda value: value in values, "one of " + ", ".join(values))


def at_least(low: float) -> Rule:
    """`low` or more."""
    return Rule(lambda value: value >= low, f"at least {low}")


ABOVE_ZERO = Rule(lambda value: value > 0, "above 0")
BETWEEN = Rule(lambda value: 0 < value < 1, "in (0, 1)")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "in [0, 1)")
