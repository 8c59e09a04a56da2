"""Zero-step inference: a policy's pass@1 on sets of problems, each with its standard error.

python -m selfreg.evaluate --model=tiny
python -m selfreg.evaluate --model=smollm2 --prompt=chat --problems=easy:main,humaneval
"""

import os

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from selfreg.data.problems import load_problems
from selfreg.data.prompts import STYLES, render
from selfreg.data.splits import split_panels
from selfreg.grading import GraderError, GraderPool
from selfreg.loop.panel import Panel, score
from selfreg.loop.pass_at_k import pass_at_k
from selfreg.loop.sample import Sampler, Stopwatch
from selfreg.policy import xla
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.decoder import layout
from selfreg.policy.models.policy import open_policy
from selfreg.policy.models.weights import place
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run import seeds
from selfreg.run.command import Command, Exit, fail
from selfreg.run.command import run as run_command
from selfreg.run.records import Sampling

_MODEL = flags.DEFINE_string("model", "tiny", "tiny, smollm2, a .gguf file or a folder.")
_PROBLEMS = flags.DEFINE_list(
    "problems",
    [f"procedural:{split}" for split in ("main", "hard", "ood", "cpp")],
    "Sources, as in config.problems.",
)
_COUNT = flags.DEFINE_integer("count", 96, "Problems of each source; 0: all.", lower_bound=0)
_SAMPLES = flags.DEFINE_integer("samples", 8, "Completions a problem.", lower_bound=1)
_K = flags.DEFINE_integer("k", 4, "For pass@k; at most --samples.", lower_bound=1)
_PROMPT = flags.DEFINE_enum("prompt", "plain", STYLES, "Prompt style.")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.7, "0: greedy.", lower_bound=0)
_TOP_P = flags.DEFINE_float("top_p", 1.0, "1: off.", 0, 1)
_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 96, "Of a completion.", lower_bound=1)
_MAX_SEQUENCES = flags.DEFINE_integer("max_sequences", 384, "Decoded at once.", lower_bound=1)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ("float32", "bfloat16", "float16"), "What layers compute in."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the completions.", lower_bound=0)


def evaluate() -> Table:
    """Measure every source and lay the results out.

    Raises:
      ValueError: A policy or a source cannot be used.
    """
    policy, weights = open_policy(_MODEL.value)
    mesh = make_mesh(-1, 1, 1)
    engine = JaxEngine(policy, mesh, dtype=_DTYPE.value, max_sequences=_MAX_SEQUENCES.value)
    engine.load_params(place(weights, layout(policy.config, mesh, weights)))
    sampling = Sampling(_TEMPERATURE.value, _TOP_P.value, 0, _NEW_TOKENS.value)
    table = Table(title=f"{_MODEL.value}, temperature {_TEMPERATURE.value:g}")
    for name in ("problems", "n", "samples", "pass@1 ± s.e.", f"pass@{_K.value}", "truncated"):
        table.add_column(name, justify="left" if name == "problems" else "right")
    with GraderPool() as pool:
        for source in _PROBLEMS.value:
            problems = load_problems(source)
            if 0 < _COUNT.value < len(problems):
                problems = split_panels(problems, {"panel": _COUNT.value}, 0)["panel"]
            prompts = {p.id: render(p, _PROMPT.value, policy.tokenizer) for p in problems}
            panel = Panel(problems, _SAMPLES.value, _SEED.value, seeds.PANEL)
            sampler = Sampler(engine, pool, sampling, prompts)
            groups = sampler.groups(panel.problems, panel.seeds(), Stopwatch())
            result = score(groups)
            drawn = np.full(len(problems), panel.samples)
            at_k = pass_at_k(
                drawn, np.rint(result.pass_rates * drawn), min(_K.value, panel.samples)
            )
            cut = np.mean([r.finish_reason == "length" for g in groups for r in g.rollouts])
            table.add_row(
                source, str(len(problems)), str(panel.samples),
                f"{result.pass_at_1:.3f} ± {result.standard_error:.3f}",
                f"{at_k.mean():.3f}", f"{cut:.2f}",
            )  # fmt: skip
    return table


def main(_: list[str]) -> None:
    """Print the table."""
    xla.set_up()
    try:
        Console().print(evaluate())
    except GraderError as error:
        fail(error, Exit.FAILED)


def run() -> None:
    """Run the command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    run_command(main, Command("evaluate", "selfreg.evaluate", "--model=MODEL"))


if __name__ == "__main__":
    run()
