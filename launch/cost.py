"""The cost of a chain: measured if it has finished, and planned otherwise."""

from collections.abc import Sequence

from launch.jobs import Job
from selfreg.run.progress import clock
from selfreg.run.standing import State, measured_s, read_standing


def costs(jobs: Sequence[Job], devices: str) -> list[tuple[float, bool]]:
    """Return each chain's seconds, and whether they were measured.

    Args:
      jobs: The chains.
      devices: The devices for planned costs, in the form of selfreg.plan's --devices.

    Raises:
      ValueError: The devices are unknown, or the planner cannot read a config.
    """
    planned: dict[str, float] = {}
    found = []
    for job in jobs:
        seconds = measured_s(job.folder)
        if seconds is not None and read_standing(job.folder).state is State.FINISHED:
            found.append((seconds, True))
            continue
        shape = repr({k: v for k, v in job.config.items() if k not in ("name", "seed")})
        if shape not in planned:
            planned[shape] = _plan(job, devices)
        found.append((planned[shape], False))
    return found


def words(seconds: float, measured: bool) -> str:
    """Format a chain's cost for a table."""
    return f"{clock(seconds)} {'measured' if measured else 'planned'}"


def _plan(job: Job, devices: str) -> float:
    """Return the planned seconds of a chain, on the config's own mesh or the best that fits."""
    # Import late, because these load jax.
    from selfreg.cli.plan.devices import DEVICES, parse_devices
    from selfreg.cli.plan.fit import Place, fit
    from selfreg.cli.plan.job import make_job
    from selfreg.cli.plan.work import estimate_work
    from selfreg.policy.models.presets import shape_of

    count, kind = parse_devices(devices)
    device, decoder = DEVICES[kind], shape_of(job.config.model.path)
    room = device.memory_fraction * device.memory_gb * 1e9
    fitted = fit(job.config, decoder, Place(count, room, kind != "CPU"))
    work = make_job(job.config, decoder, gpu=kind != "CPU")
    campaigns = job.config.campaigns
    chain_s = estimate_work(work, fitted.split, device, mfu=0.4, mbu=0.6).chain_s
    return chain_s * (1 - 1 / campaigns) if job.needs_first_campaign else chain_s
