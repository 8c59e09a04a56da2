"""Describes what a step drew and measured, as metrics: docs/metrics.md defines each."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from selfreg.run.records import FinishReason, Group, Outcome, PanelScore


def describe_panel(panel: PanelScore) -> dict[str, float]:
    """Return the panel's pass@1 and its standard error."""
    return {"panel_pass_at_1": panel.pass_at_1, "panel_pass_at_1_se": panel.standard_error}


def rates_by_problem(panel: PanelScore) -> tuple[float, ...]:
    """Return the panel's rates; none at all where a problem has no judged completion."""
    return () if np.isnan(panel.pass_rates).any() else tuple(panel.pass_rates.tolist())


def describe_samples(groups: Sequence[Group]) -> dict[str, float]:
    """Return what the samples of a step say about the policy; unjudged completions say nothing."""
    unjudged = sum(len(group.unjudged) for group in groups)
    share = {"grader/unjudged": unjudged / sum(group.size for group in groups)} if unjudged else {}
    groups = [group for group in groups if group.rollouts]
    if not groups:
        return share
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    grades = [grade for group in groups for grade in group.grades]
    outcomes, count = Counter(grade.outcome for grade in grades), len(rollouts)
    metrics = {
        "pass_rate": float(np.mean([group.rewards.mean() for group in groups])),
        "frac_reward_zero_std": float(np.mean([group.rewards.std() == 0 for group in groups])),
        "distinct_completions": float(
            np.mean([len({r.text for r in g.rollouts}) / len(g.rollouts) for g in groups])
        ),
        "response_length/mean": float(np.mean([len(r.completion_ids) for r in rollouts])),
        "clip_ratio": sum(r.finish_reason is FinishReason.LENGTH for r in rollouts) / count,
        "invalid_syntax_rate": outcomes[Outcome.COMPILE_ERROR] / count,
    }
    shares = {f"grader/{o.value}": outcomes[o] / count for o in Outcome if outcomes[o]}
    used = {
        "grader/program_cpu_s": float(np.mean([grade.time_s for grade in grades])),
        "grader/program_peak_mb": max(grade.peak_mb for grade in grades),
    }
    return metrics | shares | share | used
