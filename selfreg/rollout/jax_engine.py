"""The in-process engine: one prefill a problem, shared by its group, then a jitted decoding loop.

Decoding runs in segments. Inside one, the loop ends as soon as every row has stopped; between two,
finished rows are dropped and the live ones packed into the smallest of a few batch sizes (halves of
the first). So a batch costs what its rows need, not what its longest row needs, and the compiled
programs stay few and known.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from selfreg.mesh import batch_sharding, in_force, place, replicated, split_rows
from selfreg.models.policy import Policy
from selfreg.records import FinishReason, Request, Rollout, Sampling
from selfreg.rollout import decode

SEGMENT_TOKENS = 16
SMALLEST_BATCH = 16  # below this a smaller batch saves nothing: the weights' bytes set the pace
SMALLEST_PROMPT = 32


class JaxEngine:
    """An Engine in the trainer's own process, on the trainer's mesh."""

    def __init__(self, policy: Policy, mesh: Mesh, *, dtype: str, max_sequences: int):
        """An engine without weights yet.

        Args:
          policy: Structure, tokenizer and stop tokens.
          mesh: Rows are split over its data and fsdp axes.
          dtype: What layers compute in, and what the engine's weights are kept in.
          max_sequences: The most rows decoded at once; more requests are served in turns.
        """
        self._policy = policy
        self._mesh = mesh
        self._max_sequences = max_sequences
        self._weights: decode.Weights | None = None
        self._version = ""
        self._unstack = self._jit(partial(decode.unstack, policy, dtype=jnp.dtype(dtype)))
        self._prefill = self._jit(partial(decode.prefill, policy), static_argnames="new_tokens")
        self._segment = self._jit(
            partial(decode.segment, policy, tokens=SEGMENT_TOKENS),
            static_argnames=("sampling", "prompt_width"),
            donate_argnames="rows",
            # What the host reads is whole in every process.
            out_shardings=(None, replicated(mesh), replicated(mesh)),
        )
        self._pack = self._jit(decode.pack)

    def _jit(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return jax.jit(in_force(self._mesh)(function), **options)

    def load_params(self, params: Any, version: str = "") -> None:
        """See Engine."""
        self._weights, self._version = self._unstack(params), version

    def release(self) -> None:
        """See Engine; the memory is the trainer's own."""

    def take_metrics(self) -> dict[str, float]:
        """See Engine."""
        return {}

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[tuple[Rollout, ...]]:
        """See Engine."""
        group = len(requests[0].seeds)
        if any(len(request.seeds) != group for request in requests):
            raise ValueError("all requests of a call must want the same number of completions")
        turn = self._turn(group)
        turns = (requests[i : i + turn] for i in range(0, len(requests), turn))
        return [rollouts for taken in turns for rollouts in self._serve(taken, sampling)]

    def warm_up(
        self, requests: int, group: int, prompt_lengths: Iterable[int], sampling: Sampling
    ) -> None:
        """See Engine: compile all the programs that calls of this kind can need."""
        turn = self._turn(group)
        counts = {self._size(count, group) for count in (min(requests, turn), requests % turn)}
        for count, width in product(counts - {0}, {_prompt_width(n) for n in prompt_lengths}):
            seeds = np.zeros(count * group, np.uint32)
            prompts, lengths = np.zeros((count, width), np.int32), np.ones(count, np.int32)
            rows = self._begin(prompts, lengths, seeds, 0, sampling)
            for size in _batch_sizes(len(seeds)):
                if size < len(seeds):
                    rows = self._pack(rows, self._kept(np.zeros(2 * size, bool), size))
                rows = self._advance(rows, 0, width, sampling)[0]

    def _turn(self, group: int) -> int:
        """The most requests decoded at once."""
        return max(1, self._max_sequences // group)

    def _size(self, requests: int, group: int) -> int:
        """How many requests a turn of this many is filled up to: few sizes, few programs."""
        return min(self._turn(group), _power_of_two(requests)) if requests else 0

    def _serve(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        """One turn."""
        group = len(requests[0].seeds)
        size = self._size(len(requests), group)
        filled = [*requests, *[requests[0]] * (size - len(requests))]
        width = max(_prompt_width(len(request.prompt_ids)) for request in requests)
        prompts = np.zeros((size, width), np.int32)
        for row, request in zip(prompts, filled, strict=True):
            row[: len(request.prompt_ids)] = request.prompt_ids
        lengths = np.array([len(request.prompt_ids) for request in filled], np.int32)
        seeds = np.concatenate([request.seeds for request in filled])
        drawn = self._decode(prompts, lengths, seeds, len(requests) * group, sampling)
        texts = self._texts(np.asarray(drawn.tokens)[: len(requests) * group])
        rows = [
            self._rollout(requests[row // group], text, [np.asarray(leaf[row]) for leaf in drawn])
            for row, text in enumerate(texts)
        ]
        return [tuple(rows[i : i + group]) for i in range(0, len(rows), group)]

    def _begin(
        self,
        prompts: np.ndarray,
        lengths: np.ndarray,
        seeds: np.ndarray,
        wanted: int,
        sampling: Sampling,
    ) -> decode.Rows:
        """Prefill; rows from `wanted` on only fill the batch and have stopped already."""
        arrays = (prompts, lengths, seeds, np.arange(len(seeds)) >= wanted)
        placed = (place(a, batch_sharding(self._mesh, len(a))) for a in arrays)
        return self._prefill(self._weights, *placed, new_tokens=_room(sampling))

    def _advance(
        self, rows: decode.Rows, start: int, width: int, sampling: Sampling
    ) -> tuple[decode.Rows, decode.Drawn, jax.Array]:
        """One segment, for prompts padded to `width`."""
        return self._segment(
            self._weights, rows, np.int32(start), np.int32(sampling.max_new_tokens),
            sampling=sampling, prompt_width=width,
        )  # fmt: skip

    def _decode(
        self,
        prompts: np.ndarray,
        lengths: np.ndarray,
        seeds: np.ndarray,
        wanted: int,
        sampling: Sampling,
    ) -> decode.Drawn:
        """What the first `wanted` rows drew, as NumPy arrays [B, max_new_tokens]."""
        if self._weights is None:
            raise RuntimeError("load_params must be called before generate")
        rows = self._begin(prompts, lengths, seeds, wanted, sampling)
        out = decode.empty_drawn(len(seeds), _room(sampling), sampling.num_alter_tokens)
        live, held = np.arange(wanted), np.arange(len(seeds))  # `held`: the rows on the device
        for start in range(0, sampling.max_new_tokens, SEGMENT_TOKENS):
            for size in _batch_sizes(len(seeds)):
                if size < len(held) and (kept := self._kept(np.isin(held, live), size)) is not None:
                    rows = self._pack(rows, kept)
                    held = held.reshape(len(kept), -1)[np.arange(len(kept))[:, None], kept].ravel()
            rows, drawn, stopped = self._advance(rows, start, prompts.shape[1], sampling)
            for target, source in zip(out, drawn, strict=True):
                target[held, start : start + SEGMENT_TOKENS] = np.asarray(source)
            live = np.setdiff1d(live, held[np.asarray(stopped)])
            if not len(live):
                break
        return out

    def _kept(self, live: np.ndarray, size: int) -> np.ndarray | None:
        """Which rows to keep [S, size / S], counted within each of the S parts that devices hold.

        Every part keeps its own live rows, padded by repeats, which draw the same tokens again: no
        row moves between devices. None when some part has more live rows than fit.
        """
        parts = split_rows(self._mesh, size)
        live = live.reshape(parts, -1)
        if live.sum(axis=1).max() > size // parts:
            return None
        rows = [np.flatnonzero(part) if part.any() else np.zeros(1, int) for part in live]
        return np.stack([np.resize(part, size // parts) for part in rows])

    def _texts(self, tokens: np.ndarray) -> list[str]:
        completions = [row[row >= 0] for row in tokens]
        return self._policy.tokenizer.batch_decode(completions, skip_special_tokens=True)

    def _rollout(self, request: Request, text: str, drawn: list[np.ndarray]) -> Rollout:
        tokens, logprobs, alter_ids, alter_logprobs = drawn
        length = int(np.sum(tokens >= 0))
        stopped = int(tokens[length - 1]) in self._policy.stop_ids
        has_alternatives = alter_ids.shape[1] > 0
        return Rollout(
            prompt_ids=request.prompt_ids,
            completion_ids=tokens[:length],
            logprobs=logprobs[:length],
            text=text,
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
            alter_ids=alter_ids[:length] if has_alternatives else None,
            alter_logprobs=alter_logprobs[:length] if has_alternatives else None,
            versions=(self._version,),
        )


def _room(sampling: Sampling) -> int:
    """Columns a cache needs for completions: whole segments."""
    return -(-sampling.max_new_tokens // SEGMENT_TOKENS) * SEGMENT_TOKENS


def _prompt_width(length: int) -> int:
    """The padded length of a prompt: a power of two."""
    return _power_of_two(max(SMALLEST_PROMPT, length))


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()


def _batch_sizes(total: int) -> list[int]:
    """The batch sizes that have a program: `total`, then halves down to SMALLEST_BATCH."""
    sizes = [total]
    while sizes[-1] // 2 >= SMALLEST_BATCH:
        sizes.append(sizes[-1] // 2)
    return sizes
