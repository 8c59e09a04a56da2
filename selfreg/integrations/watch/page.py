"""The HTML page of a watched run: its reward, the evidence with the alarm line, one sentence."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfreg.analysis.page import render, themed
from selfreg.analysis.plot import DPI, WIDTH_IN, style
from selfreg.analysis.theme import Theme
from selfreg.integrations.watch.follow import Followed

_SHOWN = -15.0  # lower evidence is drawn at this value


def page(name: str, run: Followed, text: str) -> str:
    """Render the self-contained HTML page."""
    return render(
        "watch.html.j2",
        title=name,
        text=text,
        alarmed=run.alarm_step is not None,
        figure=themed(lambda theme: figure(run, theme)) if run.points else None,
        settings=run.settings,
        points=len(run.points),
    )


def figure(run: Followed, theme: Theme) -> Figure:
    """Draw rewards with their moving average, and below them the evidence with the alarm line."""
    with matplotlib.rc_context(style(theme)):
        picture = Figure((WIDTH_IN, 4.4), dpi=DPI, layout="constrained")
        above, below = picture.subplots(2, sharex=True, height_ratios=(3, 2))
        looks = [p for p in run.points if p.is_look]
        logged = [p for p in run.points if not p.is_look]
        for points, label, color in ((logged, "log", theme.faint), (looks, "panel", theme.ink)):
            if points:
                steps, values = [p.step for p in points], [p.value for p in points]
                above.plot(steps, values, ".", color=color, markersize=3, label=label)
        own = looks or logged
        average = [np.nan if p.average is None else p.average for p in own]
        above.plot([p.step for p in own], average, color=theme.lines[0], label="moving average")
        reference = run.decision.reference if run.decision else None
        if reference is not None:
            above.axvline(reference, color=theme.lines[2], linewidth=1, label="best checkpoint")
        if run.alarm_step is not None:
            above.axvline(run.alarm_step, color=theme.lines[1], linewidth=1, label="alarm")
        above.set_title("mean reward")
        evidence = [max(p.log_evidence, _SHOWN) for p in run.points]
        below.plot([p.step for p in run.points], evidence, color=theme.lines[3])
        below.axhline(0.0, color=theme.lines[1], linewidth=1)
        below.set_title("evidence of a fall (nats; alarm at 0)")
        below.set_xlabel("step")
        below.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        picture.legend(loc="outside lower left", ncols=3, frameon=False)
    return picture
