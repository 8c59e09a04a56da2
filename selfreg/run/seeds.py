"""Derives randomness from the place where it is used, so that a resumed run repeats its draws.

Every stream mixes the run's seed with the campaign, the step and the problem. A stream without one
of these would give different runs the same lucky steps.
"""

import zlib

import numpy as np

# The streams: training samples, the two panels, the choice of problems, LoRA's adapters, controls,
# the panels of capabilities, and algorithms.
TRAIN, PANEL, REPORT, CHOICE, ADAPTERS, CONTROL, CAPABILITY, ALGORITHM = range(8)


def generator(seed: int, stream: int, *position: int) -> np.random.Generator:
    """Make a NumPy generator for one position of one stream."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream, *position))))


def completion_seeds(
    seed: int, stream: int, problem_id: str, count: int, *position: int
) -> np.ndarray:
    """Derive one seed a completion.

    Args:
      seed: The run's seed.
      stream: TRAIN, PANEL, REPORT or CAPABILITY.
      problem_id: The problem; its CRC makes the problems of one step differ.
      count: G.
      *position: Campaign and step. Empty for a panel: its seeds are the same at every step, so that
        differences are paired.

    Returns:
      uint32 [G].
    """
    mixed = (seed, stream, zlib.crc32(problem_id.encode()), *position)
    return np.random.SeedSequence(mixed).generate_state(count)
