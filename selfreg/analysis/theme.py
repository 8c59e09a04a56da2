"""Style of the plots on light and on dark pages.

Plots are sized for a phone. At about 80 pixels per inch, 10-point type is 11 pixels high. The
colours are Okabe and Ito's, which people with any kind of colour vision can tell apart.
"""

from typing import Any, NamedTuple

WIDTH_IN, DPI = 4.6, 220


class Theme(NamedTuple):
    """Colours of a plot on a light or a dark page; conditions take `lines` in order."""

    paper: str
    ink: str
    faint: str
    lines: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#22262b", "#9aa0a6",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)  # fmt: skip
DARK = Theme(
    "#16191d", "#e4e6e9", "#6f767d",
    ("#56b4e9", "#e69f00", "#2fc59a", "#e29bc3", "#d55e00", "#7aa6ff"),
)  # fmt: skip


def style(theme: Theme) -> dict[Any, Any]:
    """Return Matplotlib's rc settings for a theme."""
    return {
        "font.size": 10, "axes.titlesize": 10, "axes.titlelocation": "left", "legend.fontsize": 9,
        "xtick.labelsize": 9, "ytick.labelsize": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.linewidth": 0.8, "axes.axisbelow": True,
        "axes.grid": True, "axes.grid.axis": "y", "grid.alpha": 0.25, "grid.linewidth": 0.6,
        "grid.color": theme.faint, "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.facecolor": theme.paper, "axes.edgecolor": theme.faint, "text.color": theme.ink,
        "axes.labelcolor": theme.ink, "axes.titlecolor": theme.ink, "xtick.color": theme.ink,
        "ytick.color": theme.ink, "xtick.major.size": 3, "ytick.major.size": 0,
        "legend.handlelength": 1.6, "legend.columnspacing": 1.2, "legend.labelspacing": 0.3,
    }  # fmt: skip
