"""Chooses how an update runs: as one program, or by halves of its rows beside each other.

A small model on a single CPU device leaves cores idle. There, two threads compute the gradients of
half of the rows each, and one program makes the step by both. Everywhere else an update is one
program. Nothing outside of this module knows which of the two it is.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
from jax.sharding import Mesh

from selfreg.policy.learn.packing import Packing, halve
from selfreg.policy.mesh import place, replicated

Array = jax.Array
Lowerings = dict[str, Callable[[], jax.stages.Lowered]]
T = TypeVar("T")
U = TypeVar("U")


class Execution(NamedTuple):
    """The functions that run an update, whichever programs they use.

    A batch is the fields of a Batch by name, on the host, and with `marks` if the algorithm makes
    any.

    Attributes:
      update: (state, base, batch, reference logprobs, anchor, numbers) -> (state, metrics).
      logprobs: (weights, base, batch, temperature) -> float32 [B, T].
      lower: As `update`, of shapes -> the programs of an update by name, each lowered when called.
    """

    update: Callable[..., Any]
    logprobs: Callable[..., Array]
    lower: Callable[..., Lowerings]


def in_one(mesh: Mesh, update: Any, logprobs: Any) -> Execution:
    """Run an update as one program.

    Args:
      mesh: The devices.
      update: The jitted program, called as Execution.update.
      logprobs: The jitted program, called as Execution.logprobs.
    """

    def run(state: Any, base: Any, batch: Mapping[str, Any], *others: Any) -> Any:
        return update(state, base, _on_mesh(mesh, batch), *others)

    def score(params: Any, base: Any, batch: Mapping[str, Any], temperature: Array) -> Array:
        scored: Array = logprobs(params, base, _on_mesh(mesh, batch), temperature)
        return scored

    def lower(*arguments: Any) -> Lowerings:
        return {"update": partial(update.lower, *arguments)}

    return Execution(run, score, lower)


def in_two(mesh: Mesh, packing: Packing, gradient: Any, step: Any, logprobs: Any) -> Execution:
    """Run an update by halves of its rows.

    Args:
      mesh: The device.
      packing: The kinds of rows that the programs are compiled for.
      gradient: The jitted program (weights, base, batch, reference logprobs, numbers) -> Gradient.
      step: The jitted program (state, gradients, base, mask of the batch's tokens, anchor, numbers)
        -> (state, metrics).
      logprobs: The jitted program, called as Execution.logprobs. It gives 0 for tokens that are in
        no row.
    """

    def halves_of(batch: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Array]]:
        whole, (first, second) = _on_mesh(mesh, batch), halve(batch["slots"], packing)
        return whole | _on_mesh(mesh, {"slots": first}), whole | _on_mesh(mesh, {"slots": second})

    def run(
        state: Any, base: Any, batch: Mapping[str, Any], reference: Any, anchor: Any, numbers: Any
    ) -> Any:
        halves = halves_of(batch)
        gradients = _beside(
            lambda half: gradient(state.params, base, half, reference, numbers), *halves
        )
        mask = halves[0]["completion_mask"]
        return step(state, gradients, base, mask, anchor, numbers)

    def score(params: Any, base: Any, batch: Mapping[str, Any], temperature: Array) -> Array:
        first, second = _beside(
            lambda half: logprobs(params, base, half, temperature), *halves_of(batch)
        )
        return first + second

    def lower(
        state: Any, base: Any, batch: Mapping[str, Any], reference: Any, anchor: Any, numbers: Any
    ) -> Lowerings:
        of_half = state.params, base, batch, reference, numbers

        def lower_step() -> jax.stages.Lowered:
            gradients = (jax.eval_shape(gradient, *of_half),) * 2
            mask = batch["completion_mask"]
            lowered: jax.stages.Lowered = step.lower(state, gradients, base, mask, anchor, numbers)
            return lowered

        return {"gradient": partial(gradient.lower, *of_half), "step": lower_step}

    return Execution(run, score, lower)


def _on_mesh(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, Array]:
    return {name: place(array, replicated(mesh)) for name, array in batch.items()}


def _beside(program: Callable[[U], T], first: U, second: U) -> tuple[T, T]:
    """Run a program on two arguments at the same time, in two threads."""
    # XLA runs the calls of one thread one after the other. The second call is made after the first,
    # and finds the program compiled.
    with ThreadPoolExecutor(1) as other:
        return other.submit(program, first).result(), program(second)
