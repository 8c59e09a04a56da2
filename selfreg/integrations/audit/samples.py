"""Read dumps of samples, which have one row per completion.

Examples are verl's rollout_data_dir, TRL's completions, tinker's rollout summaries and NeMo-RL's
train_data. A dump shows how many samples of how many problems a step has. It is reduced to one row
per step with the mean reward.
"""

import numpy as np

from selfreg.integrations.audit.names import find
from selfreg.integrations.audit.table import Column, Table

_TEXTS = ("completion", "output", "response", "completions", "responses", "generation", "answer")
_PROBLEMS = (
    "problem_id", "prompt_id", "group_idx", "uid", "example_id", "question_id", "task_id", "prompt",
    "input", "question", "problem", "prompts",
)  # fmt: skip
_SAMPLE_REWARDS = ("total_reward", "score", "reward", "rewards", "final_reward", "acc", "correct")
_NO_REWARDS = {
    "step",
    "advantage",
    "advantages",
    "idx",
    "iteration",
    "index",
    "epoch",
    "length",
    "entropy",
}
_SAMPLE_STEPS = ("step", "global_step", "iteration")
SAMPLES, PROBLEMS, LEVELS = "samples a step", "problems a step", "reward levels"
FORM = "samples"
LOW, HIGH = "lowest reward", "highest reward"


def is_dump(table: Table) -> bool:
    """Return whether the rows are samples, each with a completion's text or tinker's traj_idx."""
    if "traj_idx" in table.numbers and find(table.numbers, _SAMPLE_REWARDS):
        return True
    text = find(table.texts, _TEXTS)
    return (
        text is not None
        and len(table.texts[text].at) > 0.9 * table.rows
        and bool(_rewards(table, None))
    )


def by_step(table: Table, column: str | None = None) -> tuple[Table, str]:
    """Reduce a dump to one row per step with the mean reward.

    The facts of the new table hold the samples and problems per step, and the reward levels.

    Args:
      table: A dump.
      column: The reward; None for the trainer's reward, or the sum of its reward functions.

    Returns:
      The table, and the name of its reward column.
    """
    names = _rewards(table, column)
    notes = list(table.notes)
    if len(names) > 1:
        notes.append(
            f"the reward is the sum of {', '.join(names)} with weights 1; --column judges one of "
            "them"
        )
    reward = np.zeros(table.rows)
    for name in names:
        own = np.full(table.rows, np.nan)
        own[table.numbers[name].at] = table.numbers[name].values
        reward += own
    step_name = find(table.numbers, _SAMPLE_STEPS)
    steps = np.full(table.rows, np.nan)
    if step_name is not None:
        steps[table.numbers[step_name].at] = table.numbers[step_name].values
    split = table.texts.get("split")
    if split is not None and len(split.names) > 1 and "train" in split.names:
        other = np.zeros(table.rows, bool)
        other[split.at] = split.codes != split.names.index("train")
        reward[other] = np.nan
        notes.append("only samples of the split 'train' are judged")
    kept = np.isfinite(reward) & np.isfinite(steps)
    dropped = dict(table.dropped)
    if not kept.all():
        dropped["samples without reward or step"] = int((~kept).sum())
    reward, steps = reward[kept], steps[kept]
    at, own_step, counts = np.unique(steps, return_inverse=True, return_counts=True)
    means = np.bincount(own_step, reward) / counts
    problems = _problem_counts(table, kept, own_step, len(at))
    rows = np.arange(len(at))
    title = column or (names[0] if len(names) == 1 else "sum of rewards")
    facts = {**table.facts, LEVELS: float(len(np.unique(reward)))}
    if len(reward):
        facts |= {LOW: float(reward.min()), HIGH: float(reward.max())}
    if len(at) and (counts == counts[0]).all():
        facts[SAMPLES] = float(counts[0])
        if problems is not None and (problems == problems[0]).all():
            facts[PROBLEMS] = float(problems[0])
    else:
        notes.append(f"steps hold {counts.min()} to {counts.max()} samples" if len(at) else "")
    numbers = {title: Column(rows, means), "step": Column(rows, at)}
    notes.append(f"{table.rows:,} samples in {len(at)} steps")
    samples = Table(
        f"{FORM} ({table.format})", len(at), numbers, {}, facts, dropped,
        tuple(note for note in notes if note), table.name,
    )  # fmt: skip
    return samples, title


def _rewards(table: Table, column: str | None) -> list[str]:
    if column is not None:
        return [column] if column in table.numbers else []
    known = find(table.numbers, _SAMPLE_REWARDS)
    if known is not None:
        return [known]
    # TRL names these columns after the reward functions, and adds an advantage column.
    if "advantage" not in table.numbers and "advantages" not in table.numbers:
        return []
    return [
        name
        for name, numbers in table.numbers.items()
        if name not in _NO_REWARDS and len(numbers.at) > 0.9 * table.rows
    ]


def _problem_counts(
    table: Table, kept: np.ndarray, step: np.ndarray, steps: int
) -> np.ndarray | None:
    """Count the distinct problems of each step; None if no column identifies problems."""
    codes = np.full(table.rows, -1.0)
    for name in _PROBLEMS:
        if name in table.texts:
            codes[table.texts[name].at] = table.texts[name].codes
            break
        if name in table.numbers:
            codes[table.numbers[name].at] = table.numbers[name].values
            break
    else:
        return None
    pairs = np.unique(np.stack([step, codes[kept]]), axis=1)
    return np.bincount(pairs[0].astype(np.int64), minlength=steps)
