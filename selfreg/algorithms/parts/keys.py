"""Keys of a config: their defaults, meanings and rules."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """A test of a value, and the words that describe the allowed values in an error."""

    holds: Callable[[Any], bool]
    words: str


ANYTHING = Rule(lambda _: True, "anything")


class Key(NamedTuple):
    """One key: its default, its meaning, and a rule for its values beyond their type."""

    default: Any
    meaning: str
    rule: Rule = ANYTHING


class Open(NamedTuple):
    """A placeholder default: the value comes from elsewhere unless the config sets the key."""

    kind: type
    words: str


def one_of(*values: str) -> Rule:
    """Return the rule that a value is one of these."""
    return Rule(lambda value: value in values, "one of " + ", ".join(values))


def at_least(low: float) -> Rule:
    """Return the rule that a value is `low` or more."""
    return Rule(lambda value: value >= low, f"at least {low}")


ABOVE_ZERO = Rule(lambda value: value > 0, "above 0")
BETWEEN = Rule(lambda value: 0 < value < 1, "in (0, 1)")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "in [0, 1)")
