"""Describes the chains of a wave, and what each of them takes from another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain of a wave: the keys that it sets in the config of the wave's file.

    Attributes:
      name: config.name.
      condition: config.condition.
      seed: config.seed.
      variant: The text after the config file's name and a colon; "" for none.
      changes: Other keys and their values.
      shares: The place of the chain whose first campaign it takes; "" for none.
      matches: The place of the chain whose numbers of updates it makes (EQ); "" for none.
      starts_from: The checkpoint that it starts from, as PLACE:peak or PLACE:CAMPAIGN.STEP; "" for
        the model's weights.
    """

    name: str
    condition: str
    seed: int
    variant: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    shares: str = ""
    matches: str = ""
    starts_from: str = ""

    @property
    def place(self) -> str:
        """The chain's folder below the folder of all runs."""
        return place_of(self.name, self.condition, self.seed)


def place_of(name: str, condition: str, seed: int) -> str:
    """Return the folder of a chain below the folder of all runs."""
    return f"{name}/{condition}/seed_{seed}"
