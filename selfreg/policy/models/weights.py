"""Weights on disk: arranged as the decoder's, checked by name and shape, read shard by shard.

Nothing here knows a file format: `hf` and `gguf` say where a tensor lies and how a part of it is
read.
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
    """A tensor that lies on disk.

    Attributes:
      shape: From the file's header.
      read: Reads a part, given one slice an axis; of any float type, values as they are stored.
    """

    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as its files describe it.

    Attributes:
      config: The decoder's shape.
      weights: A tree of `Tensor`, nested as the decoder's weights are: for `place`.
      stop_ids: The tokens that end a completion, besides the tokenizer's own; () where unsaid.
    """

    config: DecoderConfig
    weights: Any
    stop_ids: tuple[int, ...]


def stack(layers: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as one with a leading axis; read into float32, layer by layer."""

    def read(index: Index) -> np.ndarray:
        chosen = layers[index[0]]
        inner = [len(range(n)[s]) for n, s in zip(layers[0].shape, index[1:], strict=True)]
        out = np.empty((len(chosen), *inner), np.float32)
        for row, layer in zip(out, chosen, strict=True):
            row[...] = layer.read(index[1:])
        return out

    return Tensor((len(layers), *layers[0].shape), read)


def weight_shapes(config: DecoderConfig) -> dict[str, Any]:
    """The shapes of a decoder's float32 weights, nested as the weights are."""
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(abstract))


def weight_names(config: DecoderConfig) -> dict[str, Any]:
    """Hugging Face's names, nested as the weights are: one, or in `blocks` one a layer."""
    shapes, names = weight_shapes(config), block_names(config)
    blocks = {
        own: tuple(f"model.layers.{i}.{names[own]}" for i in range(config.layers))
        for own in shapes["blocks"]
    }
    return {own: TOP_NAMES[own] for own in shapes if own != "blocks"} | {"blocks": blocks}


def arrange(config: DecoderConfig, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Find a decoder's weights among tensors under Hugging Face's names; nothing is read.

    Args:
      config: The shape.
      tensors: By name.
      source: Named in errors.

    Returns:
      Tensors, nested as the decoder's weights are, those of blocks stacked [L, ...].

    Raises:
      ValueError: A tensor is missing, left over or of another shape; all such are named.
    """
    shapes, names = weight_shapes(config), weight_names(config)
    wanted = {names[own]: leaf.shape for own, leaf in shapes.items() if own != "blocks"}
    for own, leaf in shapes["blocks"].items():
        wanted |= dict.fromkeys(names["blocks"][own], leaf.shape[1:])
    # A tied head is often stored a second time; it is then the embedding itself.
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

    One shard is read, sent and forgotten before the next one: beside what the devices hold, the
    host never holds more than one shard of one stacked weight. A shard that several devices hold is
    read once. Every process of a multi-process run reads what its own devices hold.

    Args:
      tensors: A tree of `Tensor`, as `arrange` returns it.
      shardings: A tree of shardings like it; None: whole on the first device.
      dtypes: A tree of types like it, to which weights are rounded before they are sent; None:
        float32.

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
    """Read one shard and put it on its devices; nothing of it stays behind."""
    shard = np.asarray(tensor.read(tuple(slice(*each) for each in bounds)), dtype)
    # Without waiting, the next shard would be read while this one is still on its way, and jax lets
    # go of what it has sent only when it is called again or Python collects garbage.
    sent = jax.block_until_ready([jax.device_put(shard, device) for device in devices])
    del shard
    gc.collect(0)
    return sent
