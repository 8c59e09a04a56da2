"""What a wave is made of: its chains, and what each needs of another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain of a wave: what it sets of its config file's config.

    Attributes:
      name: config.name.
      condition: config.condition.
      seed: config.seed.
      variant: What follows the config file's name and a colon; "": nothing.
      changes: Other keys.
      shares: The place of the chain whose first campaign it takes; "": none.
      matches: The place of the chain whose numbers of updates it makes (EQ); "": none.
      starts_from: The checkpoint that it starts from, as PLACE:peak or PLACE:CAMPAIGN.STEP; "":
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
        """Its folder below the folder of all runs."""
        return place_of(self.name, self.condition, self.seed)


def place_of(name: str, condition: str, seed: int) -> str:
    """Where a chain lies below the folder of all runs."""
    return f"{name}/{condition}/seed_{seed}"
