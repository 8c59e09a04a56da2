"""What a drop from peak to end amounts to; apart, so that it loads without the rest."""

from enum import StrEnum

# A smaller drop is no collapse, however sure it is; and what is surely smaller is stable.
MARGIN = 0.10
LEVEL = 0.05


class Finding(StrEnum):
    """What a campaign's drop from peak to end amounts to."""

    COLLAPSED = "collapsed"
    DECLINED = "declined"
    IMPROVED = "improved"
    STABLE = "stable"
    NOISE = "not distinguishable from noise"
    NO_DROP = "the end is the peak"
    NOTHING_TO_LOSE = "nothing to lose"
    FAILED = "failed"


def p_value(p: float) -> str:
    """As in "p = 0.03", with two digits that say something."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.01 else f"p = {p:.2f}"
