"""Which mesh a job should have, and what to change where it does not fit."""

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
    """Settings that make a job fit, and the bytes a device that it then needs at its peak."""

    settings: dict[str, Any]
    peak: float


class Fit(NamedTuple):
    """A job on its mesh.

    Attributes:
      split: The mesh; the config's own, or the best of those that fit if it has another size.
      memory: A device's.
      fits: It does.
      mesh_settings: What the config must say for this mesh; empty if it says so.
    """

    split: Split
    memory: Memory
    fits: bool
    mesh_settings: dict[str, int]


class Place(NamedTuple):
    """Where a job shall run: how many devices, bytes of each that JAX may take, and their kind.

    `largest_head` is as in make_job.
    """

    devices: int
    room: float
    gpu: bool
    largest_head: int = 256

    @property
    def threads(self) -> int:
        """Threads that would decode there; of a CPU, as many as this machine has cores."""
        return decoding_threads("gpu" if self.gpu else "cpu", self.devices)


def job_at(
    config: Any, decoder: DecoderConfig, place: Place, lengths: tuple[int, int] | None = None
) -> Job:
    """The job of a config there: see make_job."""
    return make_job(
        config, decoder, gpu=place.gpu, largest_head=place.largest_head, threads=place.threads,
        lengths=lengths,
    )  # fmt: skip


def own_split(config: Any, devices: int) -> Split | None:
    """The config's mesh on this many devices; None where they do not multiply."""
    mesh = config.mesh
    rest = mesh.fsdp * mesh.tensor
    data = devices // rest if mesh.data == -1 else mesh.data
    return Split(data, mesh.fsdp, mesh.tensor) if data * rest == devices and data else None


def splits(devices: int) -> Iterator[Split]:
    """All meshes of this size, those first that exchange least: data, then fsdp, then tensor."""
    sizes = [n for n in range(1, devices + 1) if devices % n == 0]
    for tensor in sizes:
        for fsdp in sizes:
            if devices % (tensor * fsdp) == 0:
                yield Split(devices // (tensor * fsdp), fsdp, tensor)


def fit(
    config: Any, decoder: DecoderConfig, place: Place, lengths: tuple[int, int] | None = None
) -> Fit:
    """Lay a config's job over devices.

    Args:
      config: Resolved.
      decoder: The shape of its policy.
      place: Where.
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
    # Some mesh always does: one that splits matrices only.
    try:
        packing_of(job, split.rows)
    except ValueError:
        return False
    return True


def enough_devices(
    config: Any, decoder: DecoderConfig, place: Place, lengths: tuple[int, int] | None = None
) -> int | None:
    """The fewest doublings of the devices on which some mesh fits; None: not even 64 times."""
    free = ConfigDict(config.to_dict())
    free.mesh.data = place.devices * 128  # no mesh of its own
    for times in (2**n for n in range(1, 7)):
        more = place._replace(devices=place.devices * times)
        if fit(free, decoder, more, lengths).fits:
            return more.devices
    return None


def advise(
    config: Any, decoder: DecoderConfig, place: Place, lengths: tuple[int, int] | None = None
) -> Change:
    """The least change that makes a job fit, or all that can be done, in the order of their cost.

    One setting that is enough is taken alone; else settings are added one to another. What another
    mesh or remat gives costs nothing but time; the last ones change what is computed.
    """

    def peak(settings: Mapping[str, Any]) -> float | None:
        changed = ConfigDict(config.to_dict())
        try:
            changed.update_from_flattened_dict(dict(settings))
            return fit(resolve(changed), decoder, place, lengths).memory.peak
        except (TypeError, ValueError):  # of another type, or impossible, in this config
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
    """Settings that need less memory, cheapest first."""
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
