"""Weights on disk: arrange them like the decoder's, check names and shapes, read shard by shard.

This module knows no file format. `hf` and `gguf` provide functions that read parts of tensors.
"""

import gc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from selfreg.policy.models.decoder import Decoder
from selfreg.policy.models.families import TOP_NAMES, block_names
from selfreg.policy.models.shape import DecoderConfig

Index = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor on disk.

    Attributes:
      shape: The shape in the file's header.
      read: Reads a part of the tensor, given one slice per axis. The result may have any float
        dtype, and its values are those in the file.
    """

    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as its files describe it.

    Attributes:
      config: The decoder's shape.
      weights: A tree of `Tensor` for `place`, nested like the decoder's weights.
      stop_ids: Tokens that end a completion besides the tokenizer's own. It is empty if the files
        name none.
    """

    config: DecoderConfig
    weights: Any
    stop_ids: tuple[int, ...]


def stack(layers: Sequence[Tensor]) -> Tensor:
    """Stack tensors of one shape along a leading axis. They are read layer by layer as float32."""

    def read(index: Index) -> np.ndarray:
        chosen = layers[index[0]]
        inner = [len(range(n)[s]) for n, s in zip(layers[0].shape, index[1:], strict=True)]
        out = np.empty((len(chosen), *inner), np.float32)
        for row, layer in zip(out, chosen, strict=True):
            row[...] = layer.read(index[1:])
        return out

    return Tensor((len(layers), *layers[0].shape), read)


def weight_shapes(config: DecoderConfig) -> dict[str, Any]:
    """Return the shapes of a decoder's float32 weights, nested like the weights."""
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(abstract))


def weight_names(config: DecoderConfig) -> dict[str, Any]:
    """Return Hugging Face's names, nested like the weights. `blocks` has a name for each layer."""
    shapes, names = weight_shapes(config), block_names(config)
    blocks = {
        own: tuple(f"model.layers.{i}.{names[own]}" for i in range(config.layers))
        for own in shapes["blocks"]
    }
    return {own: TOP_NAMES[own] for own in shapes if own != "blocks"} | {"blocks": blocks}


def arrange(config: DecoderConfig, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Find a decoder's weights among tensors with Hugging Face's names, without reading them.

    Args:
      config: The decoder's shape.
      tensors: Tensors by name.
      source: The name of the file or folder in errors.

    Returns:
      Tensors, nested like the decoder's weights. Those of blocks are stacked [L, ...].

    Raises:
      ValueError: Tensors are missing, unknown or have another shape. The message names up to 8.
    """
    shapes, names = weight_shapes(config), weight_names(config)
    wanted = {names[own]: leaf.shape for own, leaf in shapes.items() if own != "blocks"}
    for own, leaf in shapes["blocks"].items():
        wanted |= dict.fromkeys(names["blocks"][own], leaf.shape[1:])
    # Files often store a tied head a second time. It equals the embedding, so it is not read.
    spare = {"lm_head.weight"} if config.tied_head else set()
    faults = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    faults += [f"unknown {name}" for name in sorted(tensors.keys() - wanted.keys() - spare)]
    faults += [
        f"{name} is {tensors[name].shape}, not {shape}"
        for name, shape in sorted(wanted.items())
        if name in tensors and tensors[name].shape != shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if faults[8:] else "")
        raise ValueError(f"{source} does not hold this decoder's weights: {shown}")
    stacked = {own: stack([tensors[n] for n in each]) for own, each in names["blocks"].items()}
    return {own: tensors[n] for own, n in names.items() if own != "blocks"} | {"blocks": stacked}


def place(tensors: Any, shardings: Any = None, dtypes: Any = None) -> Any:
    """Read weights from disk onto devices.

    Each shard is read, sent and freed before the next one. So besides the devices' own arrays, the
    host never holds more than one shard of one stacked weight. A shard that several devices hold is
    read once. In a multi-process run, each process reads only the shards of its own devices.

    Args:
      tensors: A tree of `Tensor`, as `arrange` returns it.
      shardings: A tree of shardings with the same nesting. None: whole on the first device.
      dtypes: A tree of dtypes with the same nesting. Weights are rounded to them before they are
        sent. None: float32.

    Returns:
      The tree with jax arrays.
    """
    if shardings is None:
        whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: whole, tensors)
    if dtypes is None:
        dtypes = jax.tree.map(lambda _: np.dtype(np.float32), tensors)
    return jax.tree.map(_place, tensors, shardings, dtypes)


def _place(tensor: Tensor, sharding: jax.sharding.Sharding, dtype: np.dtype) -> jax.Array:
    places: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(tensor.shape).items():
        spans = zip(index or (), tensor.shape, strict=True)
        places.setdefault(tuple(s.indices(n)[:2] for s, n in spans), []).append(device)
    pieces = [piece for bounds, on in places.items() for piece in _send(tensor, bounds, on, dtype)]
    return jax.make_array_from_single_device_arrays(tensor.shape, sharding, pieces)


def _send(
    tensor: Tensor,
    bounds: Iterable[tuple[int, int]],
    devices: Sequence[jax.Device],
    dtype: np.dtype,
) -> list[jax.Array]:
    """Read one shard, put it on its devices, and free the host's copy."""
    shard = np.asarray(tensor.read(tuple(slice(*each) for each in bounds)), dtype)
    # Without waiting, the next shard would be read while this one is still being sent. JAX frees
    # the sent data only when it is called again or when Python collects garbage.
    sent = jax.block_until_ready([jax.device_put(shard, device) for device in devices])
    del shard
    gc.collect(0)
    return sent
