"""Check and compare sources of problems, before hours are spent on them.

    selfreg data check SOURCE [--model=tiny] [--prompt=plain] [--samples=5]
    selfreg data overlap TRAIN HELD_OUT

`check` loads a source (docs/data.md) and runs the solution of every problem. It prints counts, the
broken problems, the lengths of prompts, and some prompts. `overlap` prints the problems of HELD_OUT
that TRAIN also holds.

The exit code is 1 if more problems are broken than --max_broken, or if the sources overlap.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from selfreg.data.overlap import find_overlap
from selfreg.data.problems import is_read, load_problems, read_rows
from selfreg.data.prompts import STYLES, render
from selfreg.data.rows import find_shape
from selfreg.grading import GraderError, GraderPool
from selfreg.policy.models.policy import open_policy
from selfreg.run.command import Command, Exit, fail
from selfreg.run.command import run as run_command
from selfreg.run.records import Problem

_MODEL = flags.DEFINE_string(
    "model", "tiny", "The policy whose tokenizer counts prompts, as config.model.path."
)
_PROMPT = flags.DEFINE_enum("prompt", "plain", STYLES, "Prompt style, as config.model.prompt.")
_SAMPLES = flags.DEFINE_integer("samples", 5, "Prompts to print.", lower_bound=0)
_MAX_BROKEN = flags.DEFINE_integer("max_broken", 0, "As config.problems.max_broken.", lower_bound=0)
_SCALE = flags.DEFINE_float("time_limit_scale", 3.0, "As config.grading.time_limit_scale.")
_MODULES = flags.DEFINE_list("modules", [], "As config.grading.modules.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes; 0: one a core.", lower_bound=0)

_SHOWN = 20


def check(source: str, console: Console) -> bool:
    """Load and validate a source, and print its counts, prompts and broken problems.

    Returns:
      Whether at most --max_broken problems are broken.

    Raises:
      ValueError: The source cannot be read, or a row is not a problem.
      GraderError: The grader does not work on this machine.
    """
    problems = load_problems(source)
    _show_counts(source, problems, console)
    tokenizer = open_policy(_MODEL.value)[0].tokenizer
    prompts = [render(problem, _PROMPT.value, tokenizer) for problem in problems]
    lengths = np.array([len(prompt) for prompt in prompts])
    longest = problems[int(lengths.argmax())].id
    console.print(
        f"Prompts, {_PROMPT.value}, in tokens of {_MODEL.value}: median {np.median(lengths):.0f}, "
        f"95% up to {np.percentile(lengths, 95):.0f}, longest {lengths.max()} ({longest})."
    )
    step = max(1, len(problems) // max(1, _SAMPLES.value))
    for problem, prompt in list(zip(problems, prompts, strict=True))[::step][: _SAMPLES.value]:
        console.rule(problem.id)
        console.print(tokenizer.decode(prompt), markup=False, highlight=False)
    console.rule()
    return _show_broken(problems, console)


def _show_counts(source: str, problems: Sequence[Problem], console: Console) -> None:
    table = Table(title=f"{source}: {len(problems)} problems")
    for name in ("what", "problems"):
        table.add_column(name, justify="left" if name == "what" else "right")
    if is_read(source):
        _add(table, "rows of", (find_shape(row) for row in read_rows(source)))
    _add(table, "kind", ("program" if p.tests.stdio else "function" for p in problems))
    _add(table, "language", (p.language.value for p in problems))
    _add(table, "checker", (p.tests.checker.name for p in problems if p.tests.stdio))
    _add(table, "CPU limit", (f"{p.time_limit_s:g} s" for p in problems))
    _add(table, "memory limit", (f"{p.memory_limit_mb} MiB" for p in problems))
    _add(table, "solution", ("yes" if p.solution else "none" for p in problems))
    if any(p.evaluation_only for p in problems):
        _add(table, "licence", ("evaluation only" for p in problems if p.evaluation_only))
    console.print(table)


def _add(table: Table, what: str, values: Iterable[str]) -> None:
    counts = Counter(values).most_common()
    for value, count in counts[:8]:
        table.add_row(f"{what}: {value}", str(count))
    if rest := sum(count for _, count in counts[8:]):
        table.add_row(f"{what}: others", str(rest))


def _show_broken(problems: Sequence[Problem], console: Console) -> bool:
    with GraderPool(_WORKERS.value, time_limit_scale=_SCALE.value, modules=_MODULES.value) as pool:
        broken = pool.validate(problems)
    solved = sum(bool(problem.solution) for problem in problems)
    console.print(
        f"{solved} of {len(problems)} problems have a solution to run; {len(broken)} are broken."
    )
    for name, why in list(broken.items())[:_SHOWN]:
        console.print(f"  {name}: {why}", markup=False, highlight=False, soft_wrap=True)
    if len(broken) > _SHOWN:
        others = ", ".join(list(broken)[_SHOWN:])
        console.print(f"  and: {others}", markup=False, highlight=False, soft_wrap=True)
    if len(broken) > _MAX_BROKEN.value:
        console.print(
            f"A run would refuse them; config.problems.max_broken={len(broken)} leaves them out."
        )
    return len(broken) <= _MAX_BROKEN.value


def overlap(train: str, held_out: str, console: Console) -> bool:
    """Print the problems of one source that also occur in another.

    Returns:
      Whether there are none.

    Raises:
      ValueError: A source cannot be read.
    """
    found = find_overlap(load_problems(train), problems := load_problems(held_out))
    console.print(f"{len(found)} of {len(problems)} problems of {held_out} stand in {train}.")
    table = Table()
    for name in ("held out", "in training", "by", "share"):
        table.add_column(name)
    for pair in found:
        table.add_row(pair.held_out, pair.train, pair.by, f"{pair.share:.2f}")
    if found:
        console.print(table)
    return not found


def main(arguments: list[str]) -> int:
    """Run the subcommand that the command line names."""
    console = Console()
    try:
        match arguments:
            case ["check", source]:
                is_well = check(source, console)
            case ["overlap", train, held_out]:
                is_well = overlap(train, held_out, console)
            case _:
                raise ValueError("say `check SOURCE` or `overlap TRAIN HELD_OUT`")
    except GraderError as error:
        fail(error, Exit.FAILED)
    return Exit.OK if is_well else Exit.FAILED


def run() -> None:
    """Run the command."""
    what = "check SOURCE | overlap TRAIN HELD_OUT"
    run_command(main, Command("data", "selfreg.data_check", what, arguments=what))


if __name__ == "__main__":
    run()
