"""Shows the progress of a run: one line a step, and the time left."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from selfreg.run.records import Plan


class _TimeLeft(ProgressColumn):
    """The time left, as ProgressLine computes it."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["left"])


class ProgressLine:
    """A live bar on a terminal; elsewhere a plain line at each panel measurement."""

    def __init__(self, label: str, campaigns: int, first_budget_steps: int, *, shown: bool = True):
        """Start the line.

        Args:
          label: The name of the run.
          campaigns: The number of its campaigns.
          first_budget_steps: The budget of the first campaign.
          shown: Whether to show anything; only the first of several processes does.
        """
        self._console = Console(quiet=not shown)
        self._campaigns = campaigns
        self._budget = first_budget_steps
        self._label = label
        self._panel = ""
        self._timed_steps, self._since = 0, 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[numbers]}"),
            _TimeLeft(),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
        )
        self._task = self._bar.add_task(label, total=1, numbers="starting", left="")
        self._bar.start()

    def begin_campaign(self, campaign: int, plan: Plan, step: int) -> None:
        """Show the plan of a campaign."""
        self._campaign, self._budget = campaign, plan.budget_steps
        resumed = f", resumed at step {step}" if step else ""
        self._console.print(
            f"[bold]{self._label}[/bold] campaign {campaign + 1}/{self._campaigns}: {plan.reason}; "
            f"at most {plan.budget_steps} steps, lr {plan.lr:g}, KL {plan.kl_coef:g}{resumed}",
            soft_wrap=True,
        )

    def restored(self, peak_step: int, lr: float) -> None:
        """Show that the campaign goes on from its peak."""
        words = f"back to the peak at step {peak_step}; from there at lr {lr:g}"
        self._console.print(f"{self._label} campaign {self._campaign + 1}: {words}", soft_wrap=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show one step."""
        if "panel_pass_at_1" in metrics:
            self._panel = (
                f"pass@1 {metrics['panel_pass_at_1']:.3f} ± {metrics['panel_pass_at_1_se']:.3f}"
            )
        shown = [self._panel]
        for name, word, form in (
            ("pass_rate", "reward", ".2f"), ("entropy", "entropy", ".2f"),
            ("time/step_s", "s/step", ".2f"),
        ):  # fmt: skip
            if name in metrics:
                shown.append(f"{metrics[name]:{form}} {word}")
        if metrics.get("updates_skipped"):
            shown.append(f"{metrics['updates_skipped']:.0f} skipped")
        left = f"{self._time_left(step)} left"
        where = f"campaign {self._campaign + 1}/{self._campaigns} step {step}/{self._budget}"
        if self._console.is_terminal:
            self._bar.update(
                self._task, total=self._budget, completed=step, left=left,
                description=f"{self._label} {where}", numbers="  ".join(shown),
            )  # fmt: skip
        elif "panel_pass_at_1" in metrics:
            self._console.print(
                f"{self._label} {where}  {'  '.join(shown)}  {left}", soft_wrap=True
            )

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def _time_left(self, step: int) -> str:
        """Estimate it at the mean pace so far; later campaigns count as long as this one."""
        if not self._since:  # the first step compiles, so its time predicts nothing
            self._since = time.monotonic()
            return "?"
        self._timed_steps += 1
        pace = (time.monotonic() - self._since) / self._timed_steps
        campaigns_after = self._campaigns - self._campaign - 1
        return clock(pace * (self._budget - step + campaigns_after * (self._budget + 1)))


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, with hours if there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
