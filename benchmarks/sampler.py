"""Compare the tokens per second of the in-process engine and of transformers' generate.

    python -m benchmarks.sampler --model=tiny
    python -m benchmarks.sampler --model=smollm2 --prompt=chat --problems=easy:train --rounds=3

Both use the same float32 weights, prompts, number of completions and temperature. "fixed" draws
exactly --new_tokens tokens per row in both. "to the end" lets rows stop early, as a real step does.
Every run draws different completions, so their lengths differ by chance between the two.
"""

import os
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from absl import app, flags

from benchmarks.ceiling import MATMUL_SIZE, matmul_ceiling, read_bandwidth
from benchmarks.peer import alternate, in_transformers
from benchmarks.table import show
from selfreg.data.problems import load_problems
from selfreg.data.prompts import STYLES, render
from selfreg.policy import xla
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.policy import Policy, count_parameters, load_policy
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run.records import Request, Sampling

_MODEL = flags.DEFINE_string("model", "tiny", "As in selfreg.cli.evaluate.")
_PROMPT = flags.DEFINE_enum("prompt", "plain", STYLES, "Prompt style.")
_PROBLEMS = flags.DEFINE_string("problems", "procedural:train", "The source of prompts.")
_GROUP = flags.DEFINE_integer("group", 16, "Completions per problem.")
_BATCHES = flags.DEFINE_list("batches", ["1", "4", "24"], "Problems per call.")
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 64, "Maximum tokens per completion.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed runs of each engine.")
TEMPERATURE = 0.7


def main(_: list[str]) -> None:
    """Measure and print."""
    xla.set_up()
    policy, params = load_policy(_MODEL.value)
    theirs = in_transformers(policy, params).eval()
    problems = load_problems(_PROBLEMS.value)
    rows = []
    floor = Floor(count_parameters(params), matmul_ceiling(), read_bandwidth())
    for count in map(int, _BATCHES.value):
        prompts = [render(p, _PROMPT.value, policy.tokenizer) for p in problems[:count]]
        rows += [_compare(policy, params, theirs, prompts, stop, floor) for stop in (False, True)]
    show(
        f"{_MODEL.value}: tokens/s, float32, group {_GROUP.value}, {_ROUNDS.value} runs: mean "
        "tokens, median seconds",
        ["problems", "rows", "lengths", "selfreg", "transformers", "ratio", "of floor"],
        rows,
        f"Floor: the longer of two times. {floor.parameters:,} parameters take 2 FLOP each per "
        f"token at {floor.flops / 1e9:.0f} GFLOP/s (a {MATMUL_SIZE}-square product), and 4 bytes "
        f"each, read once per token for all rows, at {floor.bandwidth / 1e9:.0f} GB/s (a sum).",
    )


class Floor(NamedTuple):
    """The bound on a float32 sampler's speed: the parameters, FLOP/s and bytes/s."""

    parameters: int
    flops: float
    bandwidth: float

    def pace(self, rows: int) -> float:
        """Return the maximum tokens per second when decoding this many rows in parallel."""
        seconds = max(2 * rows * self.parameters / self.flops, 4 * self.parameters / self.bandwidth)
        return rows / seconds


def _compare(
    policy: Policy,
    params: object,
    theirs: torch.nn.Module,
    prompts: list[np.ndarray],
    stop: bool,
    floor: Floor,
) -> list[str]:
    group, new_tokens = _GROUP.value, _NEW_TOKENS.value
    stops = policy.stop_ids if stop else (-2,)  # an id that is never drawn
    engine = JaxEngine(
        replace(policy, stop_ids=stops),
        make_mesh(-1, 1, 1), dtype="float32", max_sequences=384,
    )  # fmt: skip
    engine.load_params(params)
    sampling = Sampling(TEMPERATURE, 1.0, 0, new_tokens)
    seeds = np.random.default_rng(0)
    engine.warm_up([list(map(len, prompts))], group, sampling)

    width = max(map(len, prompts))
    padded = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, prompt in enumerate(prompts):  # generate needs left-padded prompts
        padded[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    drawn: dict[str, list[int]] = {"ours": [], "theirs": []}

    def ours() -> None:
        requests = [Request(p, seeds.integers(2**32, size=group, dtype=np.uint32)) for p in prompts]
        rollouts = engine.generate(requests, sampling)
        drawn["ours"].append(sum(len(r.completion_ids) for own in rollouts for r in own))

    torch.manual_seed(0)

    def peer() -> None:
        with torch.inference_mode():
            out = theirs.generate(
                padded, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_k=0,
                num_return_sequences=group, max_new_tokens=new_tokens, pad_token_id=0,
                min_new_tokens=None if stop else new_tokens,
            )[:, width:]  # fmt: skip
        ends = (out == policy.stop_ids[0]).int().cumsum(1).cumsum(1)
        drawn["theirs"].append(int((ends <= 1).sum()) if stop else out.numel())

    own_s, peer_s = alternate(ours, peer, _ROUNDS.value)
    fast, slow = np.mean(drawn["ours"][1:]) / own_s, np.mean(drawn["theirs"][1:]) / peer_s
    lengths = "to the end" if stop else f"fixed {new_tokens}"
    return [
        str(len(prompts)), str(len(prompts) * group), lengths,
        f"{fast:,.0f}", f"{slow:,.0f}", f"{fast / slow:.1f}x",
        f"{fast / floor.pace(len(prompts) * group):.0%}",
    ]  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main)
