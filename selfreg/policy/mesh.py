"""The device mesh (data, fsdp, tensor) and the rules that lay logical axes over it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# Weights are split over fsdp along the model's width and over tensor along what it multiplies, so
# that each matrix is cut along both. Norm scales are small and stay whole. The first three are of
# activations: a batch's rows; rows that the devices of one copy of the weights share; and rows
# whose next token is drawn, each by one device.
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
    """A mesh over all devices, of all processes.

    Args:
      data: Devices that hold copies and split the batch; -1: all that the other axes leave.
      fsdp: Devices that split the weights and the batch.
      tensor: Devices that split each layer's matrices.
      devices: The devices, where it is not all of them.

    Raises:
      ValueError: The sizes do not multiply to the number of devices.
    """
    count = len(devices or jax.devices())
    if data == -1:
        data = max(1, count // (fsdp * tensor))
    if data * fsdp * tensor != count:
        raise ValueError(
            f"config.mesh data={data} x fsdp={fsdp} x tensor={tensor} needs "
            f"{data * fsdp * tensor} devices, and there are {count}"
        )
    shape, kinds = (data, fsdp, tensor), (AxisType.Auto,) * 3
    return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)


def batch_sharding(mesh: Mesh, rows: int, *, axis: int = 0) -> NamedSharding:
    """Rows, on this axis, split over data and fsdp; whole on every device if they do not divide."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, _fit(mesh, "rows", rows)))


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array on the mesh. Every process must hold the same one, and copies its own part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def weight_shardings(
    mesh: Mesh | AbstractMesh,
    tree: Any,
    logical_axes: Mapping[str, tuple[str, ...]],
    pieces: Mapping[str, int],
    *,
    over: Sequence[str] = AXES,
) -> Any:
    """The sharding of every leaf of a tree of weights, or of moments named and shaped like them.

    Args:
      mesh: The devices.
      tree: Arrays or shapes. A leaf is known by the last name on its path that `logical_axes` has;
        leaves that are no weights (an optimizer's counter) are whole on every device.
      logical_axes: Axis names of a weight by its own name; further leading axes (stacked layers)
        stay whole, as does an axis that its mesh axis does not divide.
      pieces: How many pieces an axis has that must stay whole each, such as heads.
      over: The mesh axes that may split.

    Returns:
      The tree with a NamedSharding in the place of each leaf.
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
    """Arrays or shapes, as shapes alone that say how they lie on devices: to lower programs by."""

    def leaf(a: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

    return jax.tree.map(leaf, tree, shardings)


@contextmanager
def in_force(mesh: Mesh) -> Iterator[None]:
    """While a function is traced for this mesh, `constrain` and its like speak of it."""
    before = _device.set(mesh.devices.flat[0])
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            yield
    finally:
        _device.reset(before)


def device_in_force() -> jax.Device:
    """The first device of the mesh in force; JAX's first device where there is no mesh.

    A program may be compiled for devices that this machine does not have: what a program contains
    depends on the mesh's devices, and not on the local ones.
    """
    return _device.get() or jax.devices()[0]


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """An activation laid over the mesh in force; as it is where there is none.

    XLA would else be free to split a layer's inputs along the width, as its weights are, and to
    exchange activations where it should gather weights.

    Args:
      x: The activation.
      *logical: A name of RULES for each axis, or None for an axis that is whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, sharding_of(mesh, x.shape, *logical))


def sharding_of(
    mesh: Mesh | AbstractMesh, shape: Sequence[int], *logical: str | None
) -> NamedSharding:
    """The sharding of an array whose axes have these names of RULES, or None for a whole one."""
    axes = [name and _fit(mesh, name, size) for name, size in zip(logical, shape, strict=True)]
    return NamedSharding(mesh, PartitionSpec(*axes))


def constrain_weights(
    tree: Any,
    logical_axes: Mapping[str, tuple[str, ...]],
    pieces: Mapping[str, int],
    *,
    over: Sequence[str] = AXES,
) -> Any:
    """Weights, gradients or moments laid over the mesh in force: see `weight_shardings`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    shardings = weight_shardings(mesh, tree, logical_axes, pieces, over=over)
    return jax.lax.with_sharding_constraint(tree, shardings)


def split_rows(mesh: Mesh | AbstractMesh | None, rows: int) -> int:
    """Into how many parts devices split so many rows; 1 if they do not divide.

    Args:
      mesh: The devices; None: the mesh in force, if any.
      rows: How many.
    """
    mesh = mesh or jax.sharding.get_abstract_mesh()
    split = 1 if mesh.empty else _size(mesh, RULES["rows"])
    return split if rows % split == 0 else 1


def _size(mesh: Mesh | AbstractMesh, names: Sequence[str]) -> int:
    return math.prod(mesh.shape[name] for name in names)


def _fit(
    mesh: Mesh | AbstractMesh, axis: str, size: int, over: Sequence[str] = AXES
) -> tuple[str, ...] | None:
    """The mesh axes that split a logical axis, if they divide it."""
    names = tuple(name for name in RULES[axis] if name in over)
    return names if names and size % _size(mesh, names) == 0 else None
