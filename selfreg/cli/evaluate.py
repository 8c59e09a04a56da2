"""Measure the pass@1 of a policy on sets of problems, with standard errors. Nothing is trained.

    selfreg evaluate --model=tiny
    selfreg evaluate --model=smollm2 --prompt=chat --problems=easy:main,humaneval
    selfreg evaluate --checkpoint=runs/tiny/ES/seed_7:peak

A checkpoint determines the model. All other settings come from the flags, not from its run.
"""

import os
from typing import Any

import numpy as np
from absl import flags
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from selfreg.cli.checkpoint import open_checkpoint
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
from selfreg.policy.models.policy import Policy, open_policy
from selfreg.policy.models.weights import place
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run import address, seeds
from selfreg.run.command import Command, Exit, fail
from selfreg.run.command import run as run_command
from selfreg.run.records import Sampling

_MODEL = flags.DEFINE_string(
    "model", None, "tiny (the default), smollm2, a .gguf file or a Hugging Face folder."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, f"A checkpoint of a run, instead of --model: {address.FORMS}."
)
_PROBLEMS = flags.DEFINE_list(
    "problems",
    [f"procedural:{split}" for split in ("main", "hard", "ood", "cpp")],
    "Sources of problems, as config.problems.train names them.",
)
_COUNT = flags.DEFINE_integer(
    "count", 96, "Problems to draw from each source; 0: all.", lower_bound=0
)
_SAMPLES = flags.DEFINE_integer("samples", 8, "Completions of each problem.", lower_bound=1)
_K = flags.DEFINE_integer("k", 4, "The k of pass@k; at most --samples is used.", lower_bound=1)
_PROMPT = flags.DEFINE_enum("prompt", "plain", STYLES, "Prompt style.")
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.7, "Of the softmax; 0: always the likeliest token.", lower_bound=0
)
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Nucleus sampling; 1: off.", 0, 1)
_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 96, "Most tokens of a completion.", lower_bound=1
)
_MAX_SEQUENCES = flags.DEFINE_integer(
    "max_sequences", 384, "Sequences that are decoded at once.", lower_bound=1
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ("float32", "bfloat16", "float16"), "The type that layers compute in."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the random draws.", lower_bound=0)


def evaluate() -> Table:
    """Measure the policy on every source, and return the table of results.

    Raises:
      ValueError: The policy or a source cannot be used.
    """
    mesh = make_mesh(-1, 1, 1)
    name, policy, params = _open(mesh)
    engine = JaxEngine(policy, mesh, dtype=_DTYPE.value, max_sequences=_MAX_SEQUENCES.value)
    engine.load_params(params)
    sampling = Sampling(_TEMPERATURE.value, _TOP_P.value, 0, _NEW_TOKENS.value)
    table = Table(title=f"{name}, temperature {_TEMPERATURE.value:g}")
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


def _open(mesh: Mesh) -> tuple[str, Policy, Any]:
    """Return the policy to measure: its name, the policy, and its weights on the devices."""
    if _CHECKPOINT.value is None:
        name = _MODEL.value or "tiny"
        policy, weights = open_policy(name)
        return name, policy, place(weights, layout(policy.config, mesh, weights))
    if _MODEL.value is not None:
        raise ValueError("--model and --checkpoint both name a policy: leave one out")
    named = address.parse(_CHECKPOINT.value)
    checkpoint = address.find(named)
    address.check_saved(named, checkpoint)
    return named.text, *open_checkpoint(named.run, checkpoint, mesh)


def main(_: list[str]) -> None:
    """Print the table of results."""
    xla.set_up()
    try:
        Console().print(evaluate())
    except GraderError as error:
        fail(error, Exit.FAILED)


def run() -> None:
    """Run the command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    run_command(
        main, Command("evaluate", "selfreg.evaluate", "--model=MODEL|--checkpoint=RUN:peak")
    )


if __name__ == "__main__":
    run()
