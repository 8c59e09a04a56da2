"""The in-process engine: one prefill per problem, shared by its group, and a jitted decoding loop.

Decoding runs in segments. Within a segment, the loop ends as soon as every row has stopped. Between
segments, the engine drops finished rows and packs the live ones into the smallest of a few batch
sizes (repeated halves of the first). So the cost of a batch follows the lengths of its rows, not
the longest row, and the number of compiled programs is small and known in advance. Rows of one
prompt stay adjacent, in lanes (rollout.lanes).

If a call has more requests than fit in one batch, the engine serves them in turns. On a single CPU
device, turns are small and run in parallel threads, because XLA's program for a few rows keeps only
one core busy.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from math import gcd
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from selfreg.policy.mesh import batch_sharding, in_force, place, replicated, split_rows
from selfreg.policy.models.policy import Policy
from selfreg.policy.rollout import decode, lanes
from selfreg.policy.xla import CONVERT_IN_LOOPS, LEAST_MEMORY_ON_CPU
from selfreg.run.records import FinishReason, Request, Rollout, Sampling

T = TypeVar("T")
SEGMENT_TOKENS = 16
SMALLEST_BATCH = 16  # smaller batches are no faster: reading the weights dominates
SMALLEST_PROMPT = 32
# Rows of a turn that runs in a thread. More rows exceed a core's cache, and fewer make the matrix
# products too small. The number must not depend on the number of cores, because the rounding of a
# batch can change what a row draws.
THREAD_ROWS = 32
# A CPU multiplies in float32. By default, XLA converts or merges the bfloat16 weights of all layers
# at once, before the first layer and before the loop over tokens. These options prevent that.
LAYER_BY_LAYER: Any = LEAST_MEMORY_ON_CPU | CONVERT_IN_LOOPS


class _Turn(NamedTuple):
    """Requests that are decoded in one batch.

    Attributes:
      rows: The decoding state on the devices. Packing reduces the number of rows.
      drawn: int [b], the completion of the turn that each row draws. Filler rows repeat one.
      group: The number of completions per request.
      size: The number of rows at the start.
    """

    rows: decode.Rows
    drawn: np.ndarray
    group: int
    size: int


class _Programs(NamedTuple):
    """The functions of selfreg.policy.rollout.decode, jitted for a policy on a mesh."""

    unstack: Any
    prefill: Any
    segment: Any
    pack: Any


@lru_cache(maxsize=16)
def _programs(policy: Policy, mesh: Mesh, dtype: str) -> _Programs:
    """Return the jitted programs.

    Engines of equal policies share them, so a second run in the same process compiles nothing.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    converts = on_cpu and dtype != "float32"

    def jit(function: Callable[..., Any], by_layer: bool = converts, **options: Any) -> Any:
        compiler_options = LAYER_BY_LAYER if by_layer else None
        return jax.jit(in_force(mesh)(function), compiler_options=compiler_options, **options)

    return _Programs(
        unstack=jit(partial(decode.unstack, policy, dtype=jnp.dtype(dtype)), by_layer=on_cpu),
        prefill=jit(partial(decode.prefill, policy), static_argnames=("lane", "new_tokens")),
        segment=jit(
            partial(decode.segment, policy, tokens=SEGMENT_TOKENS),
            static_argnames="sampling",
            donate_argnames="rows",
            # Every process must hold the whole of what the host reads.
            out_shardings=(None, replicated(mesh), replicated(mesh)),
        ),
        pack=jit(decode.pack, static_argnames="lane"),
    )


def turns(max_sequences: int, group: int, threads: int) -> tuple[int, int]:
    """Return the number of requests in a turn, and the number of turns to decode in parallel.

    Args:
      max_sequences: The maximum number of rows decoded at once. A single larger group may exceed
        it.
      group: The number of completions per request.
      threads: As `decoding_threads`.
    """
    most = max(1, max_sequences // group)
    if not threads:
        return most, 1
    requests = min(most, max(1, THREAD_ROWS // group))
    return requests, min(threads, most // requests)


def decoding_threads(platform: str, devices: int) -> int:
    """Return the number of threads that may decode in parallel: one per core, or 0 for no threads.

    Without threads, the devices decode everything in one batch.
    """
    # Two threads whose programs both run on several devices could deadlock.
    return len(os.sched_getaffinity(0)) if platform == "cpu" and devices == 1 else 0


class JaxEngine:
    """An Engine in the trainer's own process, on the trainer's mesh."""

    def __init__(self, policy: Policy, mesh: Mesh, *, dtype: str, max_sequences: int):
        """Make an engine without weights.

        Args:
          policy: The structure, tokenizer and stop tokens.
          mesh: Rows are split over its data and fsdp axes.
          dtype: The dtype of the layers' computation and of the engine's copy of the weights.
          max_sequences: The maximum number of rows decoded at once.
        """
        self._policy = policy
        self._mesh = mesh
        threads = decoding_threads(mesh.devices.flat[0].platform, mesh.size)
        self._turns = partial(turns, max_sequences, threads=threads)
        self._weights: decode.Weights | None = None
        self._version = ""
        self._programs = _programs(policy, mesh, dtype)

    def load_params(self, params: Any, version: str = "") -> None:
        """See Engine."""
        self._weights = None  # free the old copy before making the new one
        self._weights, self._version = self._programs.unstack(params), version

    def release(self) -> None:
        """See Engine. This engine has no memory apart from the trainer's."""

    def take_metrics(self) -> dict[str, float]:
        """See Engine."""
        return {}

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[tuple[Rollout, ...]]:
        """See Engine."""
        group = len(requests[0].seeds)
        if any(len(request.seeds) != group for request in requests):
            raise ValueError("all requests of a call must have the same number of seeds")
        most, beside = self._turns(group)
        taken = list(_in_turns(requests, most))
        serve = partial(self._serve, most=most, sampling=sampling)
        if beside == 1 or len(taken) == 1:
            return [rollouts for own in taken for rollouts in serve(own)]
        with ThreadPoolExecutor(beside) as pool:
            return [rollouts for served in pool.map(serve, taken) for rollouts in served]

    def warm_up(self, calls: Iterable[Sequence[int]], group: int, sampling: Sampling) -> None:
        """See Engine. Compiles all programs that these calls need."""
        most, _ = self._turns(group)
        shapes = {
            (_size(len(lengths), most), max(map(_prompt_width, lengths)))
            for call in calls
            for lengths in _in_turns(call, most)
        }
        for count, width in sorted(shapes):
            seeds = np.zeros(count * group, np.uint32)
            prompts, lengths = np.zeros((count, width), np.int32), np.ones(count, np.int32)
            turn = self._begin(prompts, lengths, seeds, 0, sampling)
            for _ in self._sizes(turn):
                turn = turn._replace(rows=self._advance(turn.rows, 0, sampling)[0])
                turn = self._packed(turn, np.zeros(0, int))

    def lower(
        self, params: Any, requests: int, group: int, prompt: int, sampling: Sampling
    ) -> dict[str, Callable[[], jax.stages.Lowered]]:
        """Return functions that lower the programs of a turn from shapes alone.

        Args:
          params: The trainer's weights, or their shapes, dtypes and shardings.
          requests: The number of requests in a call. A turn takes as many as it can.
          group: The number of completions per request.
          prompt: The number of tokens in the longest prompt.
          sampling: How to draw.

        Returns:
          `unstack`, `prefill`, `segment`, and `pack` if a smaller batch size exists.
        """
        mesh, most = self._mesh, self._turns(group)[0]
        count = _size(min(requests, most), most)
        size, width = count * group, _prompt_width(prompt)
        parts = split_rows(mesh, size)
        options = {"lane": lanes.width(size, size, group, parts), "new_tokens": _room(sampling)}

        def shaped(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, shape[0]))

        arrays = (
            shaped((count, width), jnp.int32), shaped((count,), jnp.int32),
            shaped((size,), jnp.uint32), shaped((size,), bool),
        )  # fmt: skip
        weights = decode.weights_like(mesh, self._policy, self._programs.unstack, params)
        rows = decode.rows_like(mesh, self._programs.prefill, weights, *arrays, **options)
        number = jax.ShapeDtypeStruct((), jnp.int32)
        programs: dict[str, Callable[[], jax.stages.Lowered]] = {
            "unstack": partial(self._programs.unstack.lower, params),
            "prefill": partial(self._programs.prefill.lower, weights, *arrays, **options),
            "segment": partial(
                self._programs.segment.lower, weights, rows, number, number, sampling=sampling
            ),
        }
        for smaller in batch_sizes(size, parts)[1:2]:
            kept = np.zeros((parts, smaller // parts), int)
            lane = lanes.width(smaller, size, group, parts)
            programs["pack"] = partial(self._programs.pack.lower, rows, kept, lane=lane)
        return programs

    def _serve(
        self, requests: Sequence[Request], most: int, sampling: Sampling
    ) -> list[tuple[Rollout, ...]]:
        """Serve one turn of at most `most` requests."""
        group = len(requests[0].seeds)
        size = _size(len(requests), most)
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
    ) -> _Turn:
        """Prefill a turn. Rows from `wanted` on only fill the batch and count as stopped."""
        arrays = (prompts, lengths, seeds, np.arange(len(seeds)) >= wanted)
        placed = (place(a, batch_sharding(self._mesh, len(a))) for a in arrays)
        size, group = len(seeds), len(seeds) // len(prompts)
        lane = lanes.width(size, size, group, split_rows(self._mesh, size))
        rows = self._programs.prefill(self._weights, *placed, lane=lane, new_tokens=_room(sampling))
        return _Turn(rows, np.arange(size), group, size)

    def _advance(
        self, rows: decode.Rows, start: int, sampling: Sampling
    ) -> tuple[decode.Rows, decode.Drawn, jax.Array]:
        """Decode one segment."""
        limit = np.int32(sampling.max_new_tokens)
        return self._programs.segment(
            self._weights, rows, np.int32(start), limit, sampling=sampling
        )

    def _decode(
        self,
        prompts: np.ndarray,
        lengths: np.ndarray,
        seeds: np.ndarray,
        wanted: int,
        sampling: Sampling,
    ) -> decode.Drawn:
        """Decode a turn, and return what the first `wanted` rows drew.

        The arrays are NumPy [B, _room(sampling)].
        """
        if self._weights is None:
            raise RuntimeError("load_params must be called before generate")
        turn = self._begin(prompts, lengths, seeds, wanted, sampling)
        out = decode.empty_drawn(turn.size, _room(sampling), sampling.num_alter_tokens)
        live = np.arange(wanted)
        for start in range(0, sampling.max_new_tokens, SEGMENT_TOKENS):
            while (packed := self._packed(turn, live)) is not turn:
                turn = packed
            rows, drawn, stopped = self._advance(turn.rows, start, sampling)
            turn = turn._replace(rows=rows)
            for target, source in zip(out, drawn, strict=True):
                target[turn.drawn, start : start + SEGMENT_TOKENS] = np.asarray(source)
            live = np.setdiff1d(live, turn.drawn[np.asarray(stopped)])
            if not len(live):
                break
        return out

    def _sizes(self, turn: _Turn) -> list[int]:
        return batch_sizes(turn.size, split_rows(self._mesh, turn.size))

    def _packed(self, turn: _Turn, live: np.ndarray) -> _Turn:
        """Pack the live rows into the next smaller batch, or return the turn if they do not fit.

        Each device keeps its own live rows, so no row moves between devices.
        """
        size = next((n for n in self._sizes(turn) if n < len(turn.drawn)), None)
        if size is None:
            return turn
        parts = split_rows(self._mesh, gcd(size, len(turn.drawn)))
        lane = lanes.width(size, turn.size, turn.group, parts)
        drawn = turn.drawn.reshape(parts, -1)
        kept = [lanes.pack(part, live, turn.group, size // parts // lane, lane) for part in drawn]
        fitting = [part for part in kept if part is not None]
        if len(fitting) < parts:
            return turn
        chosen = np.stack(fitting)
        rows = self._programs.pack(turn.rows, chosen, lane=lane)
        return turn._replace(rows=rows, drawn=np.take_along_axis(drawn, chosen, axis=1).ravel())

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


def _in_turns(requests: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Split the requests into turns of `most`, with the rest in the last turn."""
    return (requests[i : i + most] for i in range(0, len(requests), most))


def _size(requests: int, most: int) -> int:
    """Return the size to which a turn is padded. Few sizes mean few compiled programs."""
    return min(most, _power_of_two(requests))


def _room(sampling: Sampling) -> int:
    """Return the number of completion tokens that a cache holds, rounded up to whole segments."""
    return -(-sampling.max_new_tokens // SEGMENT_TOKENS) * SEGMENT_TOKENS


def _prompt_width(length: int) -> int:
    """Return the padded length of a prompt, a power of two."""
    return _power_of_two(max(SMALLEST_PROMPT, length))


def _power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()


def batch_sizes(total: int, parts: int) -> list[int]:
    """Return the batch sizes that have a program: `total`, then halves down to SMALLEST_BATCH.

    Args:
      total: The number of rows at the start.
      parts: The number of parts into which devices split the rows. Sizes that they cannot split
        evenly are left out, because every device would hold such a batch whole.
    """
    sizes = [total]
    while (half := sizes[-1] // 2) >= SMALLEST_BATCH and half % parts == 0:
        sizes.append(half)
    return sizes
