"""The decoder and the in-process engine against transformers: every family, equal weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from selfreg.policy.learn.logprobs import token_logprobs
from selfreg.policy.mesh import make_mesh
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run.records import Request, Sampling

WIDTH = 40  # five times Gemma's window
LENGTHS = np.array([WIDTH, 17, 2, 9, 31, WIDTH, 8, 24])
TOKENS = np.random.default_rng(0).integers(2, 97, (len(LENGTHS), WIDTH)).astype(np.int32)
REAL = np.arange(WIDTH) < LENGTHS[:, None]
EVERY_FAMILY = pytest.mark.parametrize(
    "pair",
    # Use an untied head if the family has one, because greedy text then repeats itself less.
    [("llama", False), ("llama3", False), ("qwen2", False), ("qwen3", False), ("gemma3", True)],
    indirect=True,
    ids=lambda case: case[0],
)


@partial(jax.jit, static_argnums=(0, 4))
def ours(policy, params, tokens, lengths, dtype):
    """Return logits float32 [B, T, V], and the logprobs [B, T - 1] of each next token."""
    decoder = policy.decoder(params)
    hidden = decoder(tokens, lengths, jnp.dtype(dtype)).hidden
    head = decoder.head_weight.astype(hidden.dtype)
    logprobs, _ = token_logprobs(
        hidden[:, :-1], decoder.head_weight, tokens[:, 1:], temperature=1.0, chunk_tokens=64
    )
    return (hidden @ head.T).astype(jnp.float32), logprobs


def theirs(model, tokens, mask, positions=None):
    """Return transformers' logits and logprobs in the same form."""
    where = {} if positions is None else {"position_ids": torch.tensor(positions)}
    with torch.no_grad():
        logits = model(
            torch.tensor(tokens).long(), attention_mask=torch.tensor(mask).long(), **where
        ).logits.float()
    logprobs = torch.log_softmax(logits[:, :-1], -1)
    wanted = torch.tensor(tokens[:, 1:, None]).long()
    return logits.numpy(), torch.gather(logprobs, -1, wanted)[..., 0].numpy()


def log_softmax(logits):
    return np.asarray(jax.nn.log_softmax(logits))


def check(got, wanted, got_real, wanted_real):
    """Check equality within 1e-4 on real tokens, for padding on either side."""
    for a, b, cut in zip(got, wanted, (0, 1), strict=True):
        # The logprob of a next token counts only if that token is real.
        own, other = got_real[:, cut:], wanted_real[:, cut:]
        if cut:
            own, other = own & got_real[:, :-1], other & wanted_real[:, :-1]
        assert np.abs(np.asarray(a)[own] - b[other]).max() < 1e-4


def test_logits_and_logprobs_equal_transformers_whatever_the_padding(pair):
    got = ours(pair.policy, pair.params, TOKENS, LENGTHS, "float32")
    assert np.std(got[0]) > 0.1
    check(got, theirs(pair.model, TOKENS, REAL), REAL, REAL)
    left = np.zeros_like(TOKENS)
    for row, length in enumerate(LENGTHS):
        left[row, WIDTH - length :] = TOKENS[row, :length]
    mask = REAL[:, ::-1].copy()
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    check(got, theirs(pair.model, left, mask, positions), REAL, mask)


@EVERY_FAMILY
def test_bfloat16_errs_no_more_than_transformers_own(pair):
    whole = np.full(len(TOKENS), WIDTH)
    exact, rounded = (
        log_softmax(ours(pair.policy, pair.params, TOKENS, whole, dtype)[0])
        for dtype in ("float32", "bfloat16")
    )
    low = type(pair.model).from_pretrained(pair.folder, dtype=torch.bfloat16).eval()
    wanted, coarse = (
        log_softmax(theirs(model, TOKENS, np.ones_like(TOKENS))[0]) for model in (pair.model, low)
    )
    error = np.sqrt(np.mean((rounded - exact) ** 2))
    # The tenth is for chance: both are means over the rounding of the same 320 tokens.
    assert 0 < error < 1.1 * np.sqrt(np.mean((coarse - wanted) ** 2))


@EVERY_FAMILY
def test_greedy_completions_equal_transformers_token_for_token(pair):
    # The lengths cross Gemma's window of 8 in the prompt, in the completion, and between the two.
    prompts = [TOKENS[0, :21], TOKENS[1, :5], TOKENS[2, :12]]
    engine = JaxEngine(pair.policy, make_mesh(-1, 1, 1), dtype="float32", max_sequences=8)
    engine.load_params(pair.params)
    requests = [Request(prompt, np.zeros(1, np.uint32)) for prompt in prompts]
    drawn = engine.generate(requests, Sampling(0.0, 1.0, 0, 28))
    for prompt, (rollout,) in zip(prompts, drawn, strict=True):
        wanted = pair.model.generate(
            torch.tensor(prompt[None]).long(), attention_mask=torch.ones(1, len(prompt)).long(),
            do_sample=False, max_new_tokens=28, eos_token_id=1, pad_token_id=0,
        )[0, len(prompt) :]  # fmt: skip
        assert rollout.completion_ids.tolist() == wanted.tolist()
        assert len(wanted) == 28
