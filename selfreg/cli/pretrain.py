"""Make the tiny policy: train a tokenizer and a 0.75M-parameter decoder on the procedural corpus.

    selfreg pretrain --out=FOLDER

With its defaults, this command made the weights in selfreg/policy/models/tiny, in about 13 minutes
on 2 cores. `selfreg evaluate --model=FOLDER` measures their pass@1, within its standard error.

The corpus is sloppy on purpose. Over half of its programs have a defect, such as `print` instead of
`return`, so that reinforcement learning has something to improve. State this with every result,
because most of the fast rise is the policy unlearning planted defects. `--sloppy_rate=0
--bug_rate=0` makes a clean corpus for comparison.
"""

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from selfreg.data.corpus import make_corpus
from selfreg.data.prompts import plain_text
from selfreg.policy.models.hf import save_folder
from selfreg.policy.models.policy import Policy, count_parameters, make_policy, random_params
from selfreg.policy.models.shape import DecoderConfig
from selfreg.run.command import Command
from selfreg.run.command import run as run_command

_OUT = flags.DEFINE_string("out", None, "The folder to write config, weights and tokenizer to.")
_EXAMPLES = flags.DEFINE_integer("examples", 40_000, "Size of the corpus.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2000, "Updates.", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 24, "Examples an update.", lower_bound=1)
_PEAK_LR = flags.DEFINE_float("peak_lr", 4e-3, "Peak learning rate; cosine to 0.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of corpus, weights and order.", lower_bound=0)
_BUG_RATE = flags.DEFINE_float("bug_rate", 0.10, "Share of wrong programs.", 0, 1)
_SLOPPY_RATE = flags.DEFINE_float("sloppy_rate", 0.6, "Share of sloppy programs.", 0, 1)

VOCABULARY = 512
PAD, EOS = "<pad>", "<eos>"
TINY = DecoderConfig(
    vocab_size=VOCABULARY, width=128, layers=4, heads=4, kv_heads=2, head_dim=32, ffn_width=320,
    rope_theta=10_000.0, norm_eps=1e-6, qkv_bias=False, tied_head=True,
)  # fmt: skip


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of VOCABULARY tokens, with <pad> and <eos>."""
    tokenizer = Tokenizer(models.BPE())
    # The pre-tokenizer keeps runs of spaces whole, so that an indent can be one token.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def batches(
    tokenizer: Any, examples: Sequence[tuple[str, str]], rows: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield shuffled batches endlessly.

    Yields:
      Tokens, int32 [B, T]; lengths in tokens, int32 [B]; and the completion mask, float32 [B, T].
    """
    prompts = tokenizer([prompt for prompt, _ in examples])["input_ids"]
    answers = tokenizer([answer for _, answer in examples])["input_ids"]
    pairs = zip(prompts, answers, strict=True)
    whole = [(len(p), [*p, *a, tokenizer.eos_token_id]) for p, a in pairs]
    width = max(len(tokens) for _, tokens in whole)
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(whole))
        for start in range(0, len(order) - rows + 1, rows):
            tokens = np.full((rows, width), tokenizer.pad_token_id, np.int32)
            mask = np.zeros((rows, width), np.float32)
            chosen = [whole[i] for i in order[start : start + rows]]
            for row, (prompt, text) in enumerate(chosen):
                tokens[row, : len(text)] = text
                mask[row, prompt : len(text)] = 1
            yield tokens, np.array([len(text) for _, text in chosen], np.int32), mask


def fit(policy: Policy, params: Any, data: Iterator[Any], steps: int, peak_lr: float) -> Any:
    """Minimize the cross-entropy of the completions with AdamW, and return the trained weights."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak_lr, max(1, steps // 20), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98))

    def loss(params: Any, tokens: jax.Array, lengths: jax.Array, mask: jax.Array) -> jax.Array:
        decoder = policy.decoder(params)
        hidden = decoder(tokens, lengths, jnp.dtype(jnp.float32)).hidden
        logits = hidden[:, :-1] @ decoder.head_weight.T
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return jnp.sum(nll * mask[:, 1:]) / jnp.sum(mask[:, 1:])

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, *batch: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    begun = time.perf_counter()
    for number in range(1, steps + 1):
        params, state, value = step(params, state, *next(data))
        if number % 50 == 0 or number == steps:
            pace = (time.perf_counter() - begun) / number
            left = math.ceil(pace * (steps - number))
            print(f"step {number}/{steps}  loss {value:.3f}  {pace:.2f} s/step  {left} s left")
    return params


def main(_: list[str]) -> None:
    """Make the corpus, the tokenizer and the weights, and save them."""
    if _OUT.value is None:
        raise ValueError("--out is missing: name a folder to write to")
    corpus = make_corpus(_EXAMPLES.value, _SEED.value, _BUG_RATE.value, _SLOPPY_RATE.value)
    examples = [(plain_text(problem), answer) for problem, answer in corpus]
    tokenizer = train_tokenizer([prompt + answer for prompt, answer in examples])
    policy, params = make_policy(TINY, tokenizer), random_params(TINY, _SEED.value)
    print(f"{len(examples)} examples, {count_parameters(params):,} parameters")
    data = batches(tokenizer, examples, _ROWS.value, _SEED.value)
    params = fit(policy, params, data, _STEPS.value, _PEAK_LR.value)
    save_folder(Path(_OUT.value), TINY, params, tokenizer)
    print(f"saved to {_OUT.value}")


def run() -> None:
    """Run the command."""
    run_command(main, Command("pretrain", "selfreg.pretrain", "--out=FOLDER"))


if __name__ == "__main__":
    run()
