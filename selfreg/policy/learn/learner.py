"""Compiles the train step over a mesh, and everything else a run computes with weights that learn.

selfreg.policy.learn.halves chooses whether an update is one program or runs by halves.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from selfreg.algorithms.parts.batch import Batch
from selfreg.policy.learn.ewc import Anchor, fisher
from selfreg.policy.learn.halves import Execution, Lowerings, in_one, in_two
from selfreg.policy.learn.microbatch import score_all
from selfreg.policy.learn.packing import in_halves
from selfreg.policy.learn.train_step import (
    LearnSettings,
    Numbers,
    TrainState,
    gradient,
    score_options,
    step,
)
from selfreg.policy.mesh import in_force, place, replicated, with_shardings
from selfreg.policy.models.adapted import Adapted
from selfreg.policy.models.decoder import layout
from selfreg.policy.models.lora import Lora, abstract_adapters, adapt, bind, freeze
from selfreg.policy.models.policy import Policy, abstract_params, count_parameters
from selfreg.policy.xla import CONVERT_IN_LOOPS, LEAST_MEMORY_ON_CPU

Array = jax.Array

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

    With LoRA the weights that go in and out are adapters, everywhere but in `merged`.

    Attributes:
      like: The shapes, types and shardings of a TrainState, to restore one by.
      init: Weights, on the host or the mesh -> TrainState on the mesh, moments at zero.
      update: (state, batch, reference logprobs, lr, kl_coef, temperature, anchor, entropy_coef,
        most_norm, marks) -> (state, metrics). The state that goes in is donated. The reference
        logprobs are None without a KL penalty. The arguments after `temperature` may be left out:
        `anchor` is None without an EWC penalty, the settings say whether `entropy_coef` and
        `most_norm` are read, and `marks` are those of the algorithm.
      logprobs: (weights, batch, temperature) -> float32 [B, T]: how a reference policy scores the
        completions.
      anchor: (weights, batch, temperature) -> EWC's anchor: the weights, copied, and their Fisher
        information on the batch.
      merged: Weights that learn -> the policy's full weights, for an engine: the very same arrays,
        or with LoRA an `Adapted`, which is merged layer by layer where it is read.
      lower: See `Lower`.
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
    ) -> Lowerings:
        """Return the programs by name; each is lowered when it is called.

        Args:
          batch: Arrays, or their shapes and types alone.
          reference: With a KL penalty.
          anchored: With EWC's penalty.

        Returns:
          `update`, or by halves `gradient` and `step`, which run in this order; `moments` (the
          optimizer's zeros), `logprobs`, and `anchor`.
        """


class _Programs(NamedTuple):
    """The jitted functions of a Learner. None of them holds any weights.

    Attributes:
      like: As in Learner.
      base: The shapes, types and shardings of a LoRA base; None without LoRA.
      copy: Weights -> a copy of them on the mesh.
      zero_moments: Weights -> moments at zero.
      execution: Runs updates and scores completions.
      logprobs: (weights, base, batch, temperature) -> float32 [B, T], as one program.
      anchor: (weights, base, batch, temperature) -> Anchor.
      freeze: Weights -> a LoRA base; weights that have its type already are not copied.
    """

    like: TrainState
    base: Any
    copy: Callable[[Any], Any]
    zero_moments: Any
    execution: Execution
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
    """Make the functions of one policy on one mesh; each compiles at its first call.

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
        fields = _fields(batch) | ({} if marks is None else {"marks": marks})
        updated: tuple[TrainState, dict[str, Array]] = programs.execution.update(
            state, base, fields, reference, anchor, numbers
        )
        return updated

    def logprobs(params: Any, batch: Batch, temperature: float) -> Array:
        return programs.execution.logprobs(params, base, _fields(batch), jnp.float32(temperature))

    def anchor(params: Any, batch: Batch, temperature: float) -> Anchor:
        placed = {name: place(array, replicated(mesh)) for name, array in _fields(batch).items()}
        return programs.anchor(params, base, placed, jnp.float32(temperature))

    def merged(params: Any) -> Any:
        return Adapted(base, params, alpha) if lora else params

    lower = partial(_lower, programs, mesh, marks=settings.objective.algorithm.mark is not None)
    return Learner(programs.like, init, update, logprobs, anchor, merged, lower)


def _fields(batch: Batch) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in Batch.__slots__}


def _lower(
    programs: _Programs,
    mesh: Mesh,
    batch: Batch,
    *,
    marks: bool,
    reference: bool = False,
    anchored: bool = False,
) -> Lowerings:
    """See Lower; `marks` says whether the algorithm marks tokens."""

    def shaped(shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(mesh))

    like, base = programs.like, programs.base
    arrays = {name: shaped(array.shape, array.dtype) for name, array in _fields(batch).items()}
    tokens, number = shaped(arrays["completion_mask"].shape), shaped(())
    marked = {"marks": tokens} if marks else {}
    scores = tokens if reference else None
    held = Anchor(like.params, like.params) if anchored else None
    numbers = Numbers(*[number] * len(Numbers._fields))
    return {
        **programs.execution.lower(like, base, arrays | marked, scores, held, numbers),
        "moments": partial(programs.zero_moments.lower, like.params),
        "logprobs": partial(programs.logprobs.lower, like.params, base, arrays, number),
        "anchor": partial(programs.anchor.lower, like.params, base, arrays, number),
    }


class _Shapes(NamedTuple):
    """The policy that learns, and where its weights lie.

    Attributes:
      policy: With LoRA's adapters in it, if there are any.
      like: The shapes, types and shardings of a TrainState.
      base: Those of a LoRA base; None without LoRA.
      full: The shardings of the full weights.
      parameters: How many weights the policy has, adapters left out.
    """

    policy: Policy
    like: TrainState
    base: Any
    full: Any
    parameters: int


def _shapes(
    policy: Policy,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    rank: int,
    alpha: float,
) -> _Shapes:
    def shardings(tree: Any) -> Any:
        return layout(policy.config, mesh, tree)

    weights = abstract_params(policy)
    full, base, parameters = shardings(weights), None, count_parameters(weights)
    if rank:
        frozen = partial(freeze, dtype=jnp.dtype(settings.dtype))
        base = with_shardings(jax.eval_shape(frozen, weights), full)
        policy = adapt(policy, rank, alpha)
        weights = abstract_adapters(policy, rank)
    moments = jax.eval_shape(optimizer.init, weights)
    averaged = weights if settings.average_decay else None
    placed_as = TrainState(shardings(weights), shardings(moments), averaged and shardings(weights))
    like = with_shardings(TrainState(weights, moments, averaged), placed_as)
    return _Shapes(policy, like, base, full, parameters)


@lru_cache(maxsize=16)
def _programs(
    policy: Policy,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    settings: LearnSettings,
    rank: int,
    alpha: float,
) -> _Programs:
    """Make the programs of a learner, with LoRA where the rank is above 0."""
    policy, like, base, full, parameters = _shapes(policy, mesh, optimizer, settings, rank, alpha)
    placed_as = jax.tree.map(lambda leaf: leaf.sharding, like)
    platform = mesh.devices.flat[0].platform
    on_cpu = platform == "cpu"
    # Only a frozen base is stored in the dtype that layers compute in. If XLA converted it before
    # the loops, a LoRA update of Qwen2.5-3B cut to 4 layers would hold 5.1 GB beside its arguments
    # instead of 1.5.
    converting = CONVERT_IN_LOOPS if on_cpu and rank and settings.dtype != "float32" else {}
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
    if in_halves(platform, mesh.size, parameters):
        execution = in_two(mesh, settings.packing, jit(of_rows), as_state(stepped), logprobs)
    else:
        execution = in_one(mesh, as_state(update), logprobs)
    return _Programs(
        like=like,
        base=base,
        # A copy always: the update donates it, and the caller keeps its own.
        copy=jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=placed_as.params),
        zero_moments=jax.jit(optimizer.init, out_shardings=placed_as.moments),
        execution=execution,
        logprobs=logprobs,
        anchor=anchor,
        freeze=lambda params: jax.device_put(freeze(params, jnp.dtype(settings.dtype)), full),
    )
