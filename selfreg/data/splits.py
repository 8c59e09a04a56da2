"""Split a data set into disjoint panels."""

from collections.abc import Mapping, Sequence

import numpy as np

from selfreg.run.records import Problem


def split_panels(
    problems: Sequence[Problem], sizes: Mapping[str, int], seed: int
) -> dict[str, tuple[Problem, ...]]:
    """Draw disjoint random panels, for example for training, for monitoring and for the report.

    Args:
      problems: The problems to draw from.
      sizes: The number of problems of each panel, by name. Panels are filled in this order, so
        that enlarging the last one leaves the others as they are.
      seed: Any non-negative integer.

    Returns:
      The panels by name; inside a panel, problems keep the order of `problems`.

    Raises:
      ValueError: The sizes add up to more than the number of problems, or one is negative.
    """
    wanted = " + ".join(f"{name} {size}" for name, size in sizes.items())
    if min(sizes.values(), default=0) < 0:
        raise ValueError(f"a panel cannot have a negative size: {wanted}")
    if sum(sizes.values()) > len(problems):
        raise ValueError(
            f"{wanted} = {sum(sizes.values())} problems, but there are {len(problems)}"
        )
    order = np.random.default_rng(seed).permutation(len(problems))
    panels = {}
    start = 0
    for name, size in sizes.items():
        panels[name] = tuple(problems[i] for i in sorted(order[start : start + size]))
        start += size
    return panels
