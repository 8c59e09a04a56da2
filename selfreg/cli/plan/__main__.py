"""Estimate the memory and the hours that a config needs on given devices, and whether it fits.

    python -m selfreg.plan --config=configs/w17.py --devices=8xH100
    python -m selfreg.plan --config=configs/w17.py:7b --devices=8xH200 --config.optimizer.lr=2e-6
    python -m selfreg.plan --config=configs/w17.py:7b --devices=8xH100 --compile

No weights are needed. The shape comes from a folder's config.json, or from the hub's name of a
known model. --compile also prints the memory that XLA's CUDA compiler allocates for each program,
beside the plan's estimate. It takes minutes and needs the extra `gpu-compile`, but no GPU. If the
config cannot fit, the exit code is 2, and a line says what to change.
"""

import os
from dataclasses import replace
from functools import partial
from shlex import quote
from typing import Any

from absl import flags
from ml_collections import config_flags
from rich import box
from rich.console import Console
from rich.table import Table

from selfreg.cli.command import read_config
from selfreg.cli.command import run as run_command
from selfreg.cli.plan.devices import DEVICES, Device, parse_devices
from selfreg.run.command import fail

_CONFIG = config_flags.DEFINE_config_file("config", None, "As in selfreg.main.", lock_config=True)
_DEVICES = flags.DEFINE_string("devices", "1xCPU", f"Such as 8xH100; of {', '.join(DEVICES)}.")
_LENGTHS = flags.DEFINE_string("lengths", "", "PROMPT:COMPLETION tokens; '': the config's limits.")
_MFU = flags.DEFINE_float("mfu", 0.4, "Fraction of FLOP/s that products reach.", 0.001, 1)
_MBU = flags.DEFINE_float("mbu", 0.6, "Fraction of bandwidth that decoding reaches.", 0.001, 1)
_COMPILE = flags.DEFINE_bool("compile", False, "Compile the programs too, for GPUs not there.")
_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
MOST = 0.92  # most of a GPU's memory that JAX can have; driver and libraries need the rest


def main(_: list[str]) -> None:
    """Print the plan, and refuse a config that cannot fit."""
    try:
        config = read_config(_CONFIG)
        count, kind = parse_devices(_DEVICES.value)
        # Imported this late, so that a mistake in a flag is reported without waiting for jax.
        from selfreg.cli.plan.deviceless import described_devices
        from selfreg.cli.plan.fit import Place, advise, enough_devices, fit, job_at
        from selfreg.cli.plan.memory import estimate
        from selfreg.cli.plan.weights import parameters
        from selfreg.cli.plan.work import estimate_work
        from selfreg.policy.models.decoder import REMAT
        from selfreg.policy.models.presets import shape_of

        device, lengths, decoder = DEVICES[kind], _lengths(), shape_of(config.model.path)
        fraction = float(os.environ.get(_FRACTION, device.memory_fraction))
        room = fraction * device.memory_gb * 1e9
        place = Place(count, room, kind != "CPU", device.largest_head)
        fitted = fit(config, decoder, place, lengths)
        job = job_at(config, decoder, place, lengths)
        work_of = partial(
            estimate_work, split=fitted.split, device=device, mfu=_MFU.value, mbu=_MBU.value
        )
        work = work_of(job)
        remats = {
            name: (estimate(each, fitted.split), work_of(each))
            for name, each in ((name, replace(job, remat=name)) for name in REMAT)
        }
        described = described_devices(kind, count) if _COMPILE.value else []
    except (ValueError, ImportError, FileNotFoundError) as error:
        fail(error)

    console = Console()
    mesh = ", ".join(f"{axis} {size}" for axis, size in fitted.split._asdict().items())
    console.print(
        f"\n[bold]{config.name}[/] {config.model.path} on {count} x {kind}, mesh {mesh}\n"
        f"{config.campaigns} campaigns x {job.steps} steps of {job.train.problems} x "
        f"{job.train.group} completions, {job.prompt} + {job.completion} tokens, "
        f"{config.model.dtype}, remat {job.remat}\n",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    _print_parameters(console, parameters(decoder))
    _print_memory(console, fitted.memory, place.room, fraction)
    _print_remats(console, remats, job.remat)
    _print_work(console, work, device)
    if job.served:
        left = max(0.0, MOST - sum(fitted.memory.stays.values()) / (device.memory_gb * 1e9))
        console.print(
            "SGLang servers draw, with weights and caches that are not planned here; the seconds "
            "are those of as many devices as the trainer's.", _beside(config, left),
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if fitted.mesh_settings:
        console.print(
            f"The config's mesh is not of {count} devices: set {_flags(fitted.mesh_settings)}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if described:
        _print_compiled(console, config, job, fitted.split, described)
    if not fitted.fits:
        change = advise(config, decoder, place, lengths)
        more = enough_devices(config, decoder, place, lengths)
        fail(ValueError(_refusal(fitted.memory.peak, place.room, device, change, more, kind)))
    console.print(f"[green]fits[/]: {_gb(fitted.memory.peak)} of {_gb(place.room)} GB a device")


def _lengths() -> tuple[int, int] | None:
    if not _LENGTHS.value:
        return None
    prompt, _, completion = _LENGTHS.value.partition(":")
    if not (prompt.isdecimal() and completion.isdecimal() and int(prompt) and int(completion)):
        raise ValueError(f"--lengths={_LENGTHS.value!r} must be two counts, such as 512:1024")
    return int(prompt), int(completion)


def _refusal(
    peak: float, room: float, device: Device, change: Any, more: int | None, kind: str
) -> str:
    """Return the error for a config that does not fit: the shortage, and the least change."""
    needs = f"it does not fit: {_gb(peak)} GB a device, of which JAX may take {_gb(room)}"
    if room < peak <= MOST * device.memory_gb * 1e9:
        return f"{needs}: set {_FRACTION}={MOST} in the environment"
    larger = f"--devices={more}x{kind}" if more else "a larger device"
    settings = _flags(change.settings)
    if change.peak <= room:
        return f"{needs}: set {settings}, which takes {_gb(change.peak)} GB, or {larger}"
    tried = f" (with {settings} it would still be {_gb(change.peak)} GB)" if settings else ""
    return f"{needs}: take {larger}{tried}"


def _beside(config: Any, left: float) -> str:
    """Return the share of memory that colocated servers may take while the trainer waits."""
    if not config.sglang.colocated:
        return ""
    return f"While the trainer waits they can have {left:.0%} of a device: sglang.memory_fraction."


def _flags(settings: dict[str, Any]) -> str:
    return " ".join(f"--config.{name}={quote(str(value))}" for name, value in settings.items())


def _gb(count: float) -> str:
    if count < 1e6:
        return "0"
    return f"{count / 1e9:,.3g}" if count < 10e9 else f"{count / 1e9:,.1f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _print_parameters(console: Console, counts: dict[str, int]) -> None:
    table = _table("Parameters", "part", "millions", "share")
    total = sum(counts.values())
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{count / 1e6:,.2f}", f"{count / total:.1%}")
    table.add_section()
    table.add_row("all", f"{total / 1e6:,.2f}", "", style="bold")
    console.print(table)


def _print_memory(console: Console, memory: Any, room: float, fraction: float) -> None:
    table = _table("Memory, GB a device", "part", "GB")
    sections = (
        ("all through the run", memory.stays),
        ("while it learns", memory.update),
        ("while weights are handed over", memory.hand_over),
        ("while it samples", memory.sample),
    )
    for title, parts in sections:
        table.add_row(title, _gb(sum(parts.values())), style="bold")
        for name, size in parts.items():
            if size:
                table.add_row(f"  {name}", _gb(size))
    table.add_section()
    table.add_row("peak", _gb(memory.peak), style="bold")
    table.add_row(f"JAX may take ({fraction:.0%})", _gb(room))
    table.add_row("the host, for all devices", _gb(sum(memory.host.values())))
    for name, size in memory.host.items():
        if size:
            table.add_row(f"  {name}", _gb(size))
    console.print(table)


def _print_remats(console: Console, remats: dict[str, Any], own: str) -> None:
    """Print the memory and the seconds of each remat mode, which trades one for the other."""
    table = _table("Remat", "model.remat", "peak, GB a device", "update, seconds")
    for name, (memory, work) in remats.items():
        seconds = f"{work.update.seconds:,.3g}"
        table.add_row(name, _gb(memory.peak), seconds, style="bold" if name == own else "")
    console.print(table)


def _print_work(console: Console, work: Any, device: Device) -> None:
    table = _table("Work, all devices", "stage", "TFLOP", "GB read a device", "seconds")
    rows = {
        "sample": work.sample, "score": work.score, "update": work.update,
        "a panel": work.panel, "a report panel": work.report,
    }  # fmt: skip
    for name, stage in rows.items():
        if stage.flops:
            read = f"{stage.bytes / 1e9:,.1f}" if stage.bytes else ""
            table.add_row(name, f"{stage.flops / 1e12:,.3g}", read, f"{stage.seconds:,.3g}")
    table.add_section()
    table.add_row("a step without panels", "", "", f"{work.step_s:,.3g}", style="bold")
    table.add_row("a campaign, hours", "", "", f"{work.campaign_s / 3600:,.2f}", style="bold")
    table.add_row("the chain, hours", "", "", f"{work.chain_s / 3600:,.2f}", style="bold")
    console.print(table)
    console.print(
        f"Estimated, not measured. seconds = FLOPs / (devices x {device.bfloat16_tflops:g} TFLOP/s "
        f"in bfloat16, {device.float32_tflops:g} in float32, x --mfu={_MFU.value:g}); decoding at "
        f"least bytes / ({device.bandwidth_gb_s:g} GB/s x --mbu={_MBU.value:g}). Grading, snapshots"
        f" and the exchange between devices come on top. Device: {device.source}.\n",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _print_compiled(console: Console, config: Any, job: Any, split: Any, devices: list) -> None:
    """Print each program's memory, both as planned and as XLA's CUDA compiler allocates it."""
    from selfreg.cli.plan.compiled import PROGRAMS, compile_programs
    from selfreg.cli.plan.memory import of_programs
    from selfreg.policy.mesh import make_mesh

    memory = _table(
        "Compiled for these GPUs: GB a device", "program", "planned", "compiled", "off",
        "arguments", "temporaries", "on the host",
    )  # fmt: skip
    work = _table("What they run", "program", "attention", "s to compile", "sent, GB a device")
    planned, mesh = of_programs(job, split), make_mesh(**split._asdict(), devices=devices)
    for name, found in compile_programs(config, job, mesh):
        memory.add_row(
            PROGRAMS[name], _gb(planned[name]), _gb(found.peak),
            f"{planned[name] / found.peak - 1:+.0%}", _gb(found.arguments), _gb(found.temporaries),
            _gb(found.host),
        )  # fmt: skip
        sent = ", ".join(f"{kind} {_gb(size)}" for kind, size in found.sent.items() if size)
        work.add_row(PROGRAMS[name], found.attention, f"{found.seconds:.0f}", sent)
    console.print(memory)
    console.print(work)
    console.print(
        "Each program alone: arguments, what it makes, and its temporaries, before cuDNN's "
        "workspaces and NCCL's buffers. Sent: by collectives, in a step with every completion at "
        "its limit; in decoding, for a token. No kernel was timed.\n",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def run() -> None:
    """Run the command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a plan takes no GPU from a run
    run_command(main, "plan", "selfreg.plan", "--config=NAME --devices=8xH100")


if __name__ == "__main__":
    run()
