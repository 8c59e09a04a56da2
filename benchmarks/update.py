"""Tokens a second of the train step beside the same one in torch, in one run.

    python -m benchmarks.update --model=tiny
    python -m benchmarks.update --model=smollm2 --rounds=2

Same float32 weights, same batch, same lengths: one problem, a group of completions, REINFORCE on
the completions' logprobs at temperature 0.7, gradient clipping and Adam. torch runs every row
whole, as trainers do, and keeps logits of completions only. selfreg runs the group's prompt once.
"""

import os

import jax
import numpy as np
import torch
from absl import app, flags

from benchmarks.peer import MATMUL_SIZE, alternate, in_transformers, matmul_ceiling
from benchmarks.table import show
from selfreg import xla
from selfreg.learn.optim import make_optimizer
from selfreg.learn.packing import Packing, pack
from selfreg.learn.train_step import LearnSettings, make_learner
from selfreg.mesh import make_mesh
from selfreg.models.policy import count_parameters, load_policy
from selfreg.records import Batch

_MODEL = flags.DEFINE_string("model", "tiny", "As in selfreg.evaluate.")
_ROWS = flags.DEFINE_integer("rows", 16, "Completions in the batch.")
_LENGTHS = flags.DEFINE_list("lengths", ["32:96", "64:64", "128:96"], "PROMPT:COMPLETION tokens.")
_MICROBATCH_ROWS = flags.DEFINE_integer("microbatch_rows", 1, "Of the update.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed runs of each.")
TEMPERATURE, LR = 0.7, 1e-5


def main(_: list[str]) -> None:
    """Measure and print."""
    xla.set_up()
    params = load_policy(_MODEL.value)[1]
    rows = [_compare(*map(int, lengths.split(":"))) for lengths in _LENGTHS.value]
    ceiling, size = matmul_ceiling(), count_parameters(params)
    show(
        f"{_MODEL.value}: update, float32, {_ROWS.value} rows, median of {_ROUNDS.value} runs",
        ["prompt", "completion", "selfreg s", "torch s", "selfreg tok/s", "torch tok/s", "ratio"],
        rows,
        f"Tokens are prompt + completion of every row. Floor of a plain step: {size:,} parameters "
        f"x 6 FLOP a token at {ceiling / 1e9:.0f} GFLOP/s (a {MATMUL_SIZE}-square product) = "
        f"{ceiling / 6 / size:,.0f} tokens/s; sharing the prompt goes below that floor.",
    )


def _compare(prompt: int, completion: int) -> list[str]:
    policy, params = load_policy(_MODEL.value)
    theirs = in_transformers(policy, params)
    generator, rows = np.random.default_rng(0), _ROWS.value
    vocabulary = policy.config.vocab_size
    shape, packing = (rows, completion), Packing((completion,), _MICROBATCH_ROWS.value)
    batch = Batch(
        prompt_ids=generator.integers(3, vocabulary, (1, prompt)).astype(np.int32),
        prompt_lengths=np.array([prompt], np.int32),
        completion_ids=generator.integers(3, vocabulary, shape).astype(np.int32),
        completion_mask=np.ones(shape, np.float32),
        logprobs=np.zeros(shape, np.float32),
        advantages=generator.choice([-1.0, 1.0], rows).astype(np.float32),
        token_weights=np.full(shape, 1 / (rows * completion), np.float32),
        slots=pack(np.full((1, rows), completion), completion, packing),
    )
    rule = make_optimizer(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=1.0)
    settings = LearnSettings("float32", TEMPERATURE, 1024, packing, False, False)
    learner = make_learner(policy, make_mesh(-1, 1, 1), rule, settings)
    state = learner.init(params)

    def ours() -> None:
        nonlocal state
        state, metrics = learner.update(state, batch, None, LR, 0.0)
        jax.block_until_ready((state, metrics))

    optimizer = torch.optim.Adam(theirs.parameters(), lr=LR)
    answers = torch.tensor(batch.completion_ids).long()
    prompts = torch.tensor(batch.prompt_ids).long().expand(rows, -1)
    tokens, gain = torch.cat([prompts, answers], 1), torch.tensor(batch.advantages)[:, None]

    def peer() -> None:
        logits = theirs(tokens, logits_to_keep=completion + 1).logits[:, :-1] / TEMPERATURE
        logprobs = torch.log_softmax(logits, -1).gather(-1, answers[..., None])[..., 0]
        loss = -(gain * logprobs).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()

    own_s, peer_s = alternate(ours, peer, _ROUNDS.value)
    count = rows * (prompt + completion)
    return [
        str(prompt), str(completion), f"{own_s:.3f}", f"{peer_s:.3f}",
        f"{count / own_s:,.0f}", f"{count / peer_s:,.0f}", f"{peer_s / own_s:.2f}x",
    ]  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main)
