"""The possible findings of a verdict, in a module of their own that loads fast."""

from enum import StrEnum

# A collapse is a drop of at least the margin. A drop below it beyond noise is stable.
MARGIN = 0.10
LEVEL = 0.05


class Finding(StrEnum):
    """The finding on a drop from peak to end."""

    COLLAPSED = "collapsed"
    DECLINED = "declined"
    IMPROVED = "improved"
    STABLE = "stable"
    NOISE = "not distinguishable from noise"
    NO_DROP = "the end is the peak"
    NOTHING_TO_LOSE = "nothing to lose"
    FAILED = "failed"


def p_value(p: float) -> str:
    """Format p as in "p = 0.03", with at most three decimals."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.01 else f"p = {p:.2f}"
