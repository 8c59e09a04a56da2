"""The device mesh (data, fsdp, tensor) and the rules that map logical axes to mesh axes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# fsdp splits a weight matrix along the model's width, and tensor splits it along the other axis.
# Norm scales are small and stay whole. The first three names are axes of activations: `rows` are a
# batch's rows, `copies` are rows that the devices of one copy of the weights share, and `draws` are
# rows whose next token is drawn by one device each.
RULES: dict[str, tuple[str, ...]] = {
    "rows": ("data", "fsdp"),
    "copies": ("data",),
    "draws": ("data", "fsdp", "tensor"),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "ffn": ("tensor",),
    "embed": ("fsdp",),
    "head_dim": (),
    "rank": (),
}


def make_mesh(
    data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Return a mesh over all devices of all processes.

    Args:
      data: Number of copies of the weights. They split the batch. -1: use all devices that the
        other axes leave.
      fsdp: Number of devices that split the weights and the batch.
      tensor: Number of devices that split each layer's matrices.
      devices: The devices to use. None: all devices.

    Raises:
      ValueError: The sizes do not multiply to the number of devices.
    """
    count = len(devices or jax.devices())
    if data == -1:
        data = max(1, count // (fsdp * tensor))
    if data * fsdp * tensor != count:
        raise ValueError(
            f"config.mesh data={data} x fsdp={fsdp} x tensor={tensor} needs "
            f"{data * fsdp * tensor} devices, but there are {count}"
        )
    shape, kinds = (data, fsdp, tensor), (AxisType.Auto,) * 3
    return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)


def batch_sharding(mesh: Mesh, rows: int, *, axis: int = 0) -> NamedSharding:
    """Return the sharding that splits the rows on `axis` over data and fsdp.

    If the devices do not divide the rows evenly, every device holds the whole array.
    """
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, _fit(mesh, "rows", rows)))


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Put a host array on the mesh.

    Every process must pass the same array. Each copies only its own part to its devices.
    """
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return the sharding that keeps the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def weight_shardings(
    mesh: Mesh | AbstractMesh,
    tree: Any,
    logical_axes: Mapping[str, tuple[str, ...]],
    pieces: Mapping[str, int],
    *,
    over: Sequence[str] = AXES,
) -> Any:
    """Return the sharding of every leaf of a tree of weights, or of moments shaped like them.

    Args:
      mesh: The devices.
      tree: Arrays or shapes. The last name on a leaf's path that is in `logical_axes` identifies
        it. Leaves that are not weights, such as an optimizer's counter, are whole on every device.
      logical_axes: Axis names by weight name. Additional leading axes (stacked layers) stay whole.
        So does an axis that its mesh axes do not divide.
      pieces: For an axis made of indivisible pieces, such as heads, the number of pieces.
      over: The mesh axes that may split a weight.

    Returns:
      The tree with a NamedSharding in place of each leaf.
    """

    def fit(axis: str, size: int) -> tuple[str, ...] | None:
        return _fit(mesh, axis, pieces.get(axis, size), over)

    def leaf(path: tuple, value: Any) -> NamedSharding:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        logical = next((logical_axes[n] for n in reversed(names) if n in logical_axes), ())
        if not 2 <= len(logical) <= len(value.shape):
            return NamedSharding(mesh, PartitionSpec())
        leading = len(value.shape) - len(logical)
        axes = map(fit, logical, value.shape[leading:])
        return NamedSharding(mesh, PartitionSpec(*[None] * leading, *axes))

    return jax.tree_util.tree_map_with_path(leaf, tree)


_device: ContextVar[jax.Device | None] = ContextVar("device in force", default=None)


def with_shardings(tree: Any, shardings: Any) -> Any:
    """Return a tree of ShapeDtypeStructs with these shardings, from which programs can be lowered.

    Args:
      tree: Arrays or shapes.
      shardings: A NamedSharding for each leaf.
    """

    def leaf(a: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

    return jax.tree.map(leaf, tree, shardings)


@contextmanager
def in_force(mesh: Mesh) -> Iterator[None]:
    """Make this the mesh in force, which `constrain` and related functions use while tracing."""
    before = _device.set(mesh.devices.flat[0])
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            yield
    finally:
        _device.reset(before)


def device_in_force() -> jax.Device:
    """Return the first device of the mesh in force, or JAX's first device without a mesh.

    A program may be compiled for devices that this machine does not have. So choices that depend on
    the kind of device must ask the mesh's devices, not the local ones.
    """
    return _device.get() or jax.devices()[0]


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Constrain an activation's sharding on the mesh in force. Without a mesh, return it unchanged.

    Without the constraint, XLA may split a layer's inputs along the width, as its weights are
    split. It would then exchange activations instead of gathering weights.

    Args:
      x: The activation.
      *logical: For each axis, a name in RULES, or None if the axis stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, sharding_of(mesh, x.shape, *logical))


def sharding_of(
    mesh: Mesh | AbstractMesh, shape: Sequence[int], *logical: str | None
) -> NamedSharding:
    """Return the sharding of an array from a name in RULES, or None, for each axis.

    An axis with None stays whole.
    """
    axes = [name and _fit(mesh, name, size) for name, size in zip(logical, shape, strict=True)]
    return NamedSharding(mesh, PartitionSpec(*axes))


def constrain_weights(
    tree: Any,
    logical_axes: Mapping[str, tuple[str, ...]],
    pieces: Mapping[str, int],
    *,
    over: Sequence[str] = AXES,
) -> Any:
    """Constrain weights, gradients or moments to their shardings on the mesh in force.

    For the arguments, see `weight_shardings`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    shardings = weight_shardings(mesh, tree, logical_axes, pieces, over=over)
    return jax.lax.with_sharding_constraint(tree, shardings)


def split_rows(mesh: Mesh | AbstractMesh | None, rows: int) -> int:
    """Return the number of parts into which the devices split this many rows.

    It is 1 if the devices do not divide the rows evenly.

    Args:
      mesh: The devices. None: the mesh in force, if any.
      rows: The number of rows.
    """
    mesh = mesh or jax.sharding.get_abstract_mesh()
    split = 1 if mesh.empty else _size(mesh, RULES["rows"])
    return split if rows % split == 0 else 1


def _size(mesh: Mesh | AbstractMesh, names: Sequence[str]) -> int:
    return math.prod(mesh.shape[name] for name in names)


def _fit(
    mesh: Mesh | AbstractMesh, axis: str, size: int, over: Sequence[str] = AXES
) -> tuple[str, ...] | None:
    """Return the mesh axes that split a logical axis, or None if they do not divide its size."""
    names = tuple(name for name in RULES[axis] if name in over)
    return names if names and size % _size(mesh, names) == 0 else None
