"""Randomness as a pure function of where it is used: a resumed run draws what it would have drawn.

Every stream mixes the run's seed with the campaign, the step and the problem: streams that share
any one of these alone would give different runs the same lucky steps.
"""

import zlib

import numpy as np

# Which stream draws: training samples, the two panels, the choice of problems, LoRA's adapters,
# what a control draws, the panels of capabilities, or what an algorithm draws.
TRAIN, PANEL, REPORT, CHOICE, ADAPTERS, CONTROL, CAPABILITY, ALGORITHM = range(8)


def generator(seed: int, stream: int, *position: int) -> np.random.Generator:
    """A NumPy generator for one position of one stream."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream, *position))))


def completion_seeds(
    seed: int, stream: int, problem_id: str, count: int, *position: int
) -> np.ndarray:
    """One seed a completion.

    Args:
      seed: The run's.
      stream: TRAIN, PANEL or REPORT.
      problem_id: Mixed in by its CRC, so that problems of one step differ.
      count: G.
      *position: Campaign and step; empty for a panel, whose seeds are the same at every step so
        that differences are paired.

    Returns:
      uint32 [G].
    """
    mixed = (seed, stream, zlib.crc32(problem_id.encode()), *position)
    return np.random.SeedSequence(mixed).generate_state(count)
