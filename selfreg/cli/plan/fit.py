"""Choose a mesh for a job, and find the settings to change if it does not fit."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from selfreg.cli.plan.job import Job, make_job, packing_of
from selfreg.cli.plan.memory import Memory, estimate
from selfreg.cli.plan.weights import Split
from selfreg.policy.models.decoder import DecoderConfig
from selfreg.policy.rollout.jax_engine import decoding_threads
from selfreg.run.validate import resolve


class Change(NamedTuple):
    """Settings to change, and the job's peak memory with them, in bytes per device."""

    settings: dict[str, Any]
    peak: float


class Fit(NamedTuple):
    """A job on its mesh.

    Attributes:
      split: The config's own mesh. If that has another number of devices, it is the best mesh that
        fits; if none fits, the one with the lowest peak.
      memory: The memory of one device.
      fits: Whether the job fits.
      mesh_settings: The settings that the config needs for this mesh; empty for its own mesh.
    """

    split: Split
    memory: Memory
    fits: bool
    mesh_settings: dict[str, int]


class Place(NamedTuple):
    """The devices of a job.

    Attributes:
      devices: The number of devices.
      room: Bytes of each device that JAX may take.
      gpu: Whether the devices are GPUs.
      largest_head: As in make_job.
    """

    devices: int
    room: float
    gpu: bool
    largest_head: int = 256

    @property
    def threads(self) -> int:
        """The number of decoding threads: one per core of this machine for a single CPU, else 0."""
        return decoding_threads("gpu" if self.gpu else "cpu", self.devices)


def job_at(
    config: Any, decoder: DecoderConfig, place: Place, lengths: tuple[int, int] | None = None
) -> Job:
    """Make the job of a config at a place; see make_job."""
    return make_job(
        config, decoder, gpu=place.gpu, largest_head=place.largest_head, threads=place.threads,
        lengths=lengths,
    )  # fmt: skip


def own_split(config: Any, devices: int) -> Split | None:
    """Return the config's mesh on this many devices; None if its axes do not multiply to them."""
    mesh = config.mesh
    rest = mesh.fsdp * mesh.tensor
    data = devices // rest if mesh.data == -1 else mesh.data
    return Split(data, mesh.fsdp, mesh.tensor) if data * rest == devices and data else None


def splits(devices: int) -> Iterator[Split]:
    """Yield all meshes of this size. Those that communicate least come first (data, then fsdp)."""
    sizes = [n for n in range(1, devices + 1) if devices % n == 0]
    for tensor in sizes:
        for fsdp in sizes:
            if devices % (tensor * fsdp) == 0:
                yield Split(devices // (tensor * fsdp), fsdp, tensor)


def fit(
    config: Any, decoder: DecoderConfig, place: Place, lengths: tuple[int, int] | None = None
) -> Fit:
    """Choose a mesh for a config's job, and estimate its memory there.

    Args:
      config: The resolved config.
      decoder: The shape of the policy.
      place: The devices.
      lengths: As in make_job.

    Raises:
      ValueError: The config's own mesh cannot split the rows of its microbatches.
    """
    job = job_at(config, decoder, place, lengths)
    own = own_split(config, place.devices)
    if own is not None:
        memory = estimate(job, own)
        return Fit(own, memory, memory.peak <= place.room, {})
    allowed = [split for split in splits(place.devices) if _splits_rows(job, split)]
    tried = [(split, estimate(job, split)) for split in allowed]
    good = [each for each in tried if each[1].peak <= place.room]
    split, memory = good[0] if good else min(tried, key=lambda each: each[1].peak)
    return Fit(split, memory, bool(good), {f"mesh.{a}": n for a, n in split._asdict().items()})


def _splits_rows(job: Job, split: Split) -> bool:
    # At least one mesh always does: the one that splits only matrices.
    try:
        packing_of(job, split.rows)
    except ValueError:
        return False
    return True


def enough_devices(
    config: Any, decoder: DecoderConfig, place: Place, lengths: tuple[int, int] | None = None
) -> int | None:
    """Double the devices until some mesh fits, and return their number; None if 64 times fails."""
    free = ConfigDict(config.to_dict())
    free.mesh.data = place.devices * 128  # never matches, so that `fit` tries all meshes
    for times in (2**n for n in range(1, 7)):
        more = place._replace(devices=place.devices * times)
        if fit(free, decoder, more, lengths).fits:
            return more.devices
    return None


def advise(
    config: Any, decoder: DecoderConfig, place: Place, lengths: tuple[int, int] | None = None
) -> Change:
    """Return the cheapest change that makes a job fit, or the best one if none does.

    If a single setting is enough, the change has only that one. Else settings are combined, in the
    order of their cost. Another mesh or remat costs only time; the last settings change the result
    of the computation.
    """

    def peak(settings: Mapping[str, Any]) -> float | None:
        changed = ConfigDict(config.to_dict())
        try:
            changed.update_from_flattened_dict(dict(settings))
            return fit(resolve(changed), decoder, place, lengths).memory.peak
        except (TypeError, ValueError):  # this config does not allow the setting
            return None

    everything: dict[str, Any] = {}
    least = peak(everything) or float("inf")
    for settings in _remedies(config, place.devices):
        alone = peak(settings)
        if alone is not None and alone <= place.room:
            return Change(settings, alone)
    for settings in _remedies(config, place.devices):
        added = peak(everything | settings)
        if added is not None and added < least:
            everything, least = everything | settings, added
        if least <= place.room:
            break
    return Change(everything, least)


def _remedies(config: Any, devices: int) -> Iterator[dict[str, Any]]:
    """Yield settings that need less memory, cheapest first."""
    group, longest = config.rollout.group_size, config.rollout.max_new_tokens
    yield from ({f"mesh.{a}": n for a, n in s._asdict().items()} for s in splits(devices))
    candidates: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("model.dtype", ("bfloat16",)),
        ("model.remat", ("dots", "layer")),
        ("learn.microbatch_rows", (0,)),
        ("learn.row_tokens", ((longest,),)),
        ("learn.logprob_chunk_tokens", (256,)),
        ("rollout.max_sequences", (4 * group, group)),
        ("optimizer.state_dtype", ("bfloat16", "int8")),
        ("model.lora_rank", (32,)),
    )
    for name, values in candidates:
        yield from ({name: value} for value in values)
