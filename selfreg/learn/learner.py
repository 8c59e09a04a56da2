"""The train step jitted over a mesh, and what else a run computes with weights that learn.

For a small model on a single CPU device both halves of a batch's rows run beside each other, and
the step by their gradients after them; else an update is one program.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from selfreg.learn.ewc import Anchor, fisher
from selfreg.learn.microbatch import score_all
from selfreg.learn.packing import halve, in_halves
from selfreg.learn.train_step import (
    LearnSettings,
    Numbers,
    TrainState,
    gradient,
    score_options,
    step,
)
from selfreg.mesh import in_force, place, replicated, with_shardings
from selfreg.models.adapted import Adapted
from selfreg.models.decoder import layout
from selfreg.models.lora import Lora, abstract_adapters, adapt, bind, freeze
from selfreg.models.policy import Policy, abstract_params, count_parameters
from selfreg.records import Batch
from selfreg.xla import CONVERT_IN_LOOPS, LEAST_MEMORY_ON_CPU

Array = jax.Array
T = TypeVar("T")
U = TypeVar("U")

# XLA orders operations for a CPU so that many could run at once, and has several weights' steps in
# memory together: up to a quarter more of it. YNN, which computes its products, is up to 8% slower
# in an update than Eigen, and copies what it transposes.
ON_CPU: Any = {
    **LEAST_MEMORY_ON_CPU,
    "xla_cpu_experimental_ynn_fusion_type": "",
}
# On a GPU XLA's defaults stay. Others were compiled with jaxlib 0.10.2, for an update of Qwen2.5-7B
# cut to 4 layers on 8 H100 with fsdp 8, and none is better. No GPU timed any of them.
# - The latency-hiding scheduler already works: xla_gpu_enable_latency_hiding_scheduler gives the
#   same program on and off. 34 of its 37 collectives have other work between start and end, and 2
#   of a layer's 5 gathers have products there, forward and backward.
# - xla_gpu_all_gather_combine_threshold_bytes and the one of reduce-scatter, at 1 GiB, leave the
#   peak at 7.03 GB, but a layer waits for all of its weights: no product runs beside a gather.
# - xla_gpu_enable_pipelined_all_gather and _reduce_scatter hold one more layer's weights: 7.52 GB.
#   Products run beside 2 of 5 gathers forward, and beside 1 backward.
# - xla_gpu_enable_while_loop_unrolling, to double buffers, has a peak of 8.04 GB.


class Learner(NamedTuple):
    """The compiled functions of one run.

    Attributes:
      like: The shapes, types and shardings of a TrainState, to restore one by.
      init: Weights, on the host or the mesh -> TrainState on the mesh, moments at zero.
      update: (state, batch, reference logprobs, lr, kl_coef, temperature, anchor, entropy_coef,
        most_norm, marks) -> (state, metrics). The state that goes in is donated.
        `reference logprobs` is None where there is no KL penalty. What comes after `temperature`
        may be left out: `anchor` is None where there is no EWC penalty, entropy_coef and most_norm
        are read only where the settings say so, and `marks` are those of the algorithm.
      logprobs: (weights, batch, temperature) -> float32 [B, T]: how a reference policy scores the
        completions.
      anchor: (weights, batch, temperature) -> what EWC holds on to: the weights, copied, and their
        Fisher information on the batch.
      merged: What is trained -> the policy's full weights, for an engine: the very same arrays, or
        with LoRA an `Adapted`, which is merged layer by layer where it is read.
      lower: See `Lower`.

    With LoRA the weights that go in and out are adapters, everywhere but in `merged`.
    """

    like: TrainState
    init: Callable[[Any], TrainState]
    update: Callable[..., tuple[TrainState, dict[str, Array]]]
    logprobs: Callable[[Any, Batch, float], Array]
    anchor: Callable[[Any, Batch, float], Anchor]
    merged: Callable[[Any], Any]
    lower: "Lower"


class Lower(Protocol):
    """Lowers a learner's programs from shapes alone, to look at memory, collectives and errors.

    Nothing is computed and no device is asked: a learner on a mesh of devices that are not there,
    or of a LoRA without a base, can lower what it cannot run.
    """

    def __call__(
        self, batch: Batch, *, reference: bool = False, anchored: bool = False
    ) -> dict[str, Callable[[], jax.stages.Lowered]]:
        """The programs by name, each lowered when it is called.

        Args:
          batch: Arrays, or their shapes and types alone.
          reference: With a KL penalty.
          anchored: With EWC's penalty.

        Returns:
          `update`, or where a batch is halved `gradient` and `step`, which run in this order;
          `moments` (the optimizer's zeros), `logprobs`, and `anchor`.
        """


class _Programs(NamedTuple):
    """What a Learner's functions run: jitted, and none holds any weights.

    Attributes:
      like: As in Learner.
      base: The shapes, types and shardings of a LoRA base; None without LoRA.
      copy: Weights -> a copy of them on the mesh.
      zero_moments: Weights -> moments at zero.
      halved: Both halves of a batch run beside each other, and an update is `gradient` of each and
        then `step`, not `update`.
      update: (state, base, batch, reference logprobs, anchor, numbers) -> (state, metrics).
      gradient: (weights, base, batch, reference logprobs, numbers) -> Gradient.
      step: (state, gradients, base, mask of the batch's tokens, anchor, numbers) -> (state,
        metrics).
      logprobs: (weights, base, batch, temperature) -> float32 [B, T].
      anchor: (weights, base, batch, temperature) -> Anchor.
      freeze: Weights -> a LoRA base; what has its type already is not copied.
    """

    like: TrainState
    base: Any
    copy: Callable[[Any], Any]
    zero_moments: Any
    halved: bool
    update: Any
    gradient: Any
    step: Any
    logprobs: Any
    anchor: Any
    freeze: Callable[[Any], Any]


def make_learner(
    policy: Policy,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    lora: Lora | None = None,
) -> Learner:
    """Compile-ready functions for one policy on one mesh.

    Learners of equal arguments share their programs: the second run in a process compiles nothing.

    Raises:
      ValueError: LoRA's rank does not fit the policy.
    """
    rank, alpha = (lora.rank, lora.alpha) if lora else (0, 0.0)
    programs = _programs(policy, mesh, optimizer, settings, rank, alpha)
    # Without a base there are its shapes: enough to lower programs by.
    base = programs.base
    if lora is not None and lora.base is not None:
        base = programs.freeze(lora.base)

    def on_mesh(batch: Batch, marks: Any = None) -> dict[str, Array]:
        arrays = {name: getattr(batch, name) for name in Batch.__slots__}
        arrays |= {} if marks is None else {"marks": marks}
        return {name: place(array, replicated(mesh)) for name, array in arrays.items()}

    def in_two(batch: Batch, marks: Any = None) -> list[dict[str, Array]]:
        whole, halves = on_mesh(batch, marks), halve(batch.slots, settings.packing)
        return [whole | {"slots": place(half, replicated(mesh))} for half in halves]

    def init(params: Any) -> TrainState:
        placed = programs.copy(params)
        averaged = programs.copy(params) if settings.average_decay else None
        return TrainState(placed, programs.zero_moments(placed), averaged)

    def update(
        state: TrainState,
        batch: Batch,
        reference: Array | None,
        lr: float,
        kl_coef: float,
        temperature: float,
        anchor: Anchor | None = None,
        entropy_coef: float = 0.0,
        most_norm: float = math.inf,
        marks: Any = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        given = lr, kl_coef, temperature, entropy_coef, most_norm
        numbers = Numbers(*map(jnp.float32, given))
        if not programs.halved:
            return programs.update(state, base, on_mesh(batch, marks), reference, anchor, numbers)
        halves = in_two(batch, marks)
        gradients = _beside(
            lambda half: programs.gradient(state.params, base, half, reference, numbers), *halves
        )
        mask = halves[0]["completion_mask"]
        return programs.step(state, gradients, base, mask, anchor, numbers)

    def logprobs(params: Any, batch: Batch, temperature: float) -> Array:
        at = jnp.float32(temperature)
        if not programs.halved:
            return programs.logprobs(params, base, on_mesh(batch), at)
        first, second = _beside(
            lambda half: programs.logprobs(params, base, half, at), *in_two(batch)
        )
        return first + second  # each 0 where the other has tokens

    def anchor(params: Any, batch: Batch, temperature: float) -> Anchor:
        return programs.anchor(params, base, on_mesh(batch), jnp.float32(temperature))

    def merged(params: Any) -> Any:
        return Adapted(base, params, alpha) if lora else params

    def lower(
        batch: Batch, *, reference: bool = False, anchored: bool = False
    ) -> dict[str, Callable[[], jax.stages.Lowered]]:
        def shaped(shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(mesh))

        like, base = programs.like, programs.base
        fields = {name: getattr(batch, name) for name in Batch.__slots__}
        arrays = {name: shaped(array.shape, array.dtype) for name, array in fields.items()}
        mask: Any = arrays["completion_mask"]
        number: Any = shaped(())
        marked = {"marks": shaped(mask.shape)} if settings.objective.algorithm.mark else {}
        scores = shaped(mask.shape) if reference else None
        held = Anchor(like.params, like.params) if anchored else None
        of_rows = (
            like.params,
            base,
            arrays | marked,
            scores,
            Numbers(*[number] * len(Numbers._fields)),
        )

        def step() -> jax.stages.Lowered:
            halves = (jax.eval_shape(programs.gradient, *of_rows),) * 2
            return programs.step.lower(like, halves, base, mask, held, of_rows[-1])

        learns: dict[str, Callable[[], jax.stages.Lowered]] = {
            "update": partial(programs.update.lower, like, *of_rows[1:4], held, of_rows[-1])
        }
        if programs.halved:
            learns = {"gradient": partial(programs.gradient.lower, *of_rows), "step": step}
        return {
            **learns,
            "moments": partial(programs.zero_moments.lower, like.params),
            "logprobs": partial(programs.logprobs.lower, like.params, base, arrays, number),
            "anchor": partial(programs.anchor.lower, like.params, base, arrays, number),
        }

    return Learner(programs.like, init, update, logprobs, anchor, merged, lower)


def _beside(program: Callable[[U], T], first: U, second: U) -> tuple[T, T]:
    """What a program makes of either, both at work at the same time."""
    # What one thread asks for XLA runs one after the other, and what two ask for side by side. The
    # second asks when the first has asked, and finds the program compiled.
    with ThreadPoolExecutor(1) as other:
        return other.submit(program, first).result(), program(second)


@lru_cache(maxsize=16)
def _programs(
    policy: Policy,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    rank: int,
    alpha: float,
) -> _Programs:
    """The programs of a learner; with LoRA where the rank is above 0."""

    def shardings(tree: Any) -> Any:
        return layout(policy.config, mesh, tree)

    weights = abstract_params(policy)
    full, base = shardings(weights), None
    platform = mesh.devices.flat[0].platform
    on_cpu = platform == "cpu"
    # Only a frozen base lies in what layers compute in. Converted in front of the loops, it makes a
    # LoRA update of Qwen2.5-3B's shape cut to 4 layers hold 5.1 GB beside its arguments, for 1.5.
    converting = CONVERT_IN_LOOPS if on_cpu and rank and settings.dtype != "float32" else {}
    halved = in_halves(platform, mesh.size, count_parameters(weights))

    def frozen(params: Any) -> Any:
        return freeze(params, jnp.dtype(settings.dtype))

    if rank:
        base = with_shardings(jax.eval_shape(frozen, weights), full)
        policy = adapt(policy, rank, alpha)
        weights = abstract_adapters(policy, rank)
    moments = jax.eval_shape(optimizer.init, weights)
    averaged = weights if settings.average_decay else None
    placed_as = TrainState(shardings(weights), shardings(moments), averaged and shardings(weights))

    of_rows = in_force(mesh)(partial(gradient, policy, settings, mesh))
    stepped = in_force(mesh)(partial(step, policy, optimizer, settings))

    # The base is an argument: as a constant it would be compiled in.
    def update(
        state: TrainState,
        base: Any,
        batch: dict[str, Array],
        reference: Array | None,
        anchor: Anchor | None,
        numbers: Numbers,
    ) -> tuple[TrainState, dict[str, Array]]:
        gradients = (of_rows(state.params, base, batch, reference, numbers),)
        return stepped(state, gradients, base, batch["completion_mask"], anchor, numbers)

    @partial(jax.jit, out_shardings=replicated(mesh), compiler_options=converting or None)
    def logprobs(params: Any, base: Any, batch: dict[str, Array], temperature: Array) -> Array:
        with in_force(mesh):
            decoder = bind(policy, base).decoder(params)
            options = score_options(settings, temperature)
            return score_all(decoder, batch, settings.packing, mesh, **options)

    held = Anchor(placed_as.params, placed_as.params)

    @partial(jax.jit, out_shardings=held, compiler_options=converting or None)
    def anchor(params: Any, base: Any, batch: dict[str, Array], temperature: Array) -> Anchor:
        with in_force(mesh):
            options = score_options(settings, temperature)
            return Anchor(
                jax.tree.map(jnp.copy, params),
                fisher(bind(policy, base), mesh, params, batch, options),
            )

    jit = partial(jax.jit, compiler_options=(ON_CPU | converting) if on_cpu else None)
    # The output keeps the layout of the input: nothing drifts from step to step.
    as_state = partial(jit, donate_argnums=0, out_shardings=(placed_as, replicated(mesh)))
    return _Programs(
        like=with_shardings(TrainState(weights, moments, averaged), placed_as),
        base=base,
        # A copy always: the update donates it, and the caller keeps its own.
        copy=jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=placed_as.params),
        zero_moments=jax.jit(optimizer.init, out_shardings=placed_as.moments),
        halved=halved,
        update=as_state(update),
        gradient=jit(of_rows),
        step=as_state(stepped),
        logprobs=logprobs,
        anchor=anchor,
        freeze=lambda params: jax.device_put(frozen(params), full),
    )
