"""The device mesh (data, fsdp, tensor) and the rules that lay logical axes over it."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# Weights are split over fsdp along the model's width and over tensor along what it multiplies, so
# that each matrix is cut along both. Norm scales are small and stay whole.
RULES: dict[str, str | None] = {
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffn": "tensor",
    "embed": "fsdp",
    "head_dim": None,
    "rank": None,
}


def make_mesh(data: int, fsdp: int, tensor: int) -> Mesh:
    """A mesh over all devices.

    Args:
      data: Devices that hold copies and split the batch; -1: all that the other axes leave.
      fsdp: Devices that split the weights and the batch.
      tensor: Devices that split each layer's matrices.

    Raises:
      ValueError: The sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    if data == -1:
        data = max(1, devices // (fsdp * tensor))
    if data * fsdp * tensor != devices:
        raise ValueError(
            f"config.mesh data={data} x fsdp={fsdp} x tensor={tensor} needs "
            f"{data * fsdp * tensor} devices, and there are {devices}"
        )
    return jax.make_mesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def batch_sharding(mesh: Mesh, rows: int) -> NamedSharding:
    """Rows split over data and fsdp, or whole on every device where they do not divide."""
    split = mesh.shape["data"] * mesh.shape["fsdp"]
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp") if rows % split == 0 else None))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def weight_shardings(
    mesh: Mesh | AbstractMesh, tree: Any, logical_axes: Mapping[str, tuple[str, ...]]
) -> Any:
    """The sharding of every leaf of a tree of weights, or of moments named and shaped like them.

    Args:
      mesh: The devices.
      tree: Arrays or shapes. A leaf is known by the last name on its path that `logical_axes` has;
        leaves that are no weights (an optimizer's counter) are whole on every device.
      logical_axes: Axis names of a weight by its own name; further leading axes (stacked layers)
        stay whole, as does an axis that its mesh axis does not divide.

    Returns:
      The tree with a NamedSharding in the place of each leaf.
    """

    def fit(axis: str, size: int) -> str | None:
        name = RULES[axis]
        return name if name and size % mesh.shape[name] == 0 else None

    def leaf(path: tuple, value: Any) -> NamedSharding:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        logical = next((logical_axes[n] for n in reversed(names) if n in logical_axes), ())
        if not 2 <= len(logical) <= len(value.shape):
            return replicated(mesh)
        leading = len(value.shape) - len(logical)
        axes = map(fit, logical, value.shape[leading:])
        return NamedSharding(mesh, PartitionSpec(*[None] * leading, *axes))

    return jax.tree_util.tree_map_with_path(leaf, tree)
