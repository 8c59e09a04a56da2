"""The pretraining corpus of the tiny policy: procedural problems with programs of mixed quality.

A policy trained on clean programs alone would leave reinforcement learning little to improve, so
some programs have planted defects. A bug is a wrong program in the right form. Sloppiness is a
right idea that cannot pass, such as `print` instead of `return`. Both rates are arguments. If both
are 0, the corpus is clean.
"""

from dataclasses import replace

import numpy as np

from selfreg.data.procedural import (
    SPLITS,
    Case,
    Program,
    draw,
    draw_step,
    fails,
    make_problem,
    write,
)
from selfreg.run.records import Language, Problem

# The share of corpus problems in the style of each split. Without the last three styles, a policy
# would score zero on hard, ood and cpp. All compositions come from the training split.
STYLES = {"train": 0.58, "hard": 0.10, "ood": 0.14, "cpp": 0.18}

_WRONG_NAMES = ("solution", "solver", "func", "answer")
_CHATTER = (
    "This should do what you asked for.",
    "Here the input is changed step by step.",
    "Let me know if you want another version.",
)
# C++ has no "no_return": such a program may pass by accident, because the result register can hold
# the right value.
_SLOPPY = {
    Language.PYTHON: ("print", "no_return", "name", "chatter"),
    Language.CPP: ("print", "name", "chatter"),
}
_PRINT = {Language.PYTHON: "print({})", Language.CPP: "cout << {}"}


def make_corpus(
    count: int, seed: int, bug_rate: float = 0.10, sloppy_rate: float = 0.55
) -> list[tuple[Problem, str]]:
    """Make problems with completions; a pure function of its arguments.

    Args:
      count: The number of examples. A program may occur more than once, in different words.
      seed: Any non-negative integer. The rates change completions only: two corpora of one seed
        have the same problems.
      bug_rate: Fraction of completions that lack an operation or have a changed constant or
        operation. Such a program fails the problem's tests.
      sloppy_rate: Fraction of completions that print the result, do not return it, misname the
        function, or chatter after the program. It is drawn independently of bugs.

    Returns:
      (problem, completion) pairs. No problem has a composition of a held-out split.

    Raises:
      ValueError: A rate is outside [0, 1].
    """
    for name, rate in (("bug_rate", bug_rate), ("sloppy_rate", sloppy_rate)):
        if not 0 <= rate <= 1:
            raise ValueError(f"{name} is a fraction in [0, 1], not {rate}")
    problems, faults = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    styles = problems.choice(list(STYLES), size=count, p=list(STYLES.values()))
    buggy, sloppy = (faults.random(count) < rate for rate in (bug_rate, sloppy_rate))
    examples = []
    for i, style in enumerate(styles.tolist()):
        program, cases = draw(problems, SPLITS[style].lengths, held_out=False)
        problem = make_problem(problems, program, cases, style, f"corpus/{seed}/{i}")
        if buggy[i]:
            program = break_program(faults, program, cases)
        if sloppy[i]:
            text = write_sloppily(faults, program, problem.language)
        else:
            text = write(program, problem.language)
        examples.append((replace(problem, split="train"), text))
    return examples


def break_program(rng: np.random.Generator, program: Program, cases: tuple[Case, ...]) -> Program:
    """Remove or change one operation so that the program fails on `cases`."""
    while True:
        i = int(rng.integers(len(program.steps)))
        op, _ = list(program.ops)[i]
        constant = int(rng.choice(op.constants)) if op.constants else 0
        changes = ((), ((op.name, constant),), (draw_step(rng, program.kind),))
        changed = changes[rng.integers(len(changes))]
        broken = replace(program, steps=program.steps[:i] + changed + program.steps[i + 1 :])
        if fails(broken, cases):
            return broken


def write_sloppily(rng: np.random.Generator, program: Program, language: Language) -> str:
    """Write the program with one sloppy defect, which keeps a right idea from passing."""
    defects = _SLOPPY[language]
    defect = defects[rng.integers(len(defects))]
    if defect == "print":
        return write(program, language, result=_PRINT[language])
    if defect == "no_return":
        return write(program, language, result="{}")
    if defect == "name":
        return write(program, language, name=_WRONG_NAMES[rng.integers(len(_WRONG_NAMES))])
    return f"{write(program, language)}\n{_CHATTER[rng.integers(len(_CHATTER))]}\n"
