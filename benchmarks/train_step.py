"""Compare the train step with the same step in torch: speed, memory and compilation.

    python -m benchmarks.train_step --model=tiny
    python -m benchmarks.train_step --model=random:smollm2 --rounds=2 --lengths=128:96

Both sides use the same weights, batch, lengths and dtype: one problem, a group of completions,
REINFORCE on the completions' logprobs at temperature 0.7, gradient clipping and Adam. torch runs
every row with its whole prompt, as most trainers do, but computes logits of completions only.
selfreg runs the group's prompt once. TRL's GRPO step is another peer if TRL is installed.

Each side's memory is measured in a separate process. For selfreg there are two: one compiles its
programs, and the other finds them on disk, like every run but a user's first. random:NAME uses
random weights of a shape in `policy.models.presets`.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
from absl import app, flags

from benchmarks.batch import Updates, learner_of, named_policy, of_shape, random_batch
from benchmarks.ceiling import MATMUL_SIZE, matmul_ceiling
from benchmarks.peer import alternate, in_transformers
from benchmarks.table import Aim, load_average, show, show_aims
from benchmarks.torch_step import has_trl, torch_update, trl_update
from selfreg.policy import xla
from selfreg.policy.learn.packing import Packing, make_packing
from selfreg.policy.models.decoder import REMAT
from selfreg.policy.models.policy import count_parameters

PARTS = ("update", "memory", "compile")
SIDES = ("selfreg", "torch", "trl")
# glibc keeps a random part of freed memory. These settings make it return all of it, so that only
# memory in use counts.
GIVE_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "MALLOC_TRIM_THRESHOLD_": "0",
}
_MODEL = flags.DEFINE_string("model", "tiny", "tiny, smollm2, a folder or random:NAME.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16"), "The layers' dtype.")
_ROWS = flags.DEFINE_integer("rows", 16, "Completions in the batch.")
_LENGTHS = flags.DEFINE_list("lengths", ["32:96", "64:64", "128:96"], "PROMPT:COMPLETION tokens.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed runs of each side.")
_REMAT = flags.DEFINE_enum("remat", "dots", tuple(REMAT), "As config.model.remat.")
_AT_ONCE = flags.DEFINE_integer("microbatch_rows", 0, "As config.learn.microbatch_rows.", 0)
_PARTS = flags.DEFINE_list("parts", list(PARTS), "The measurements to make.")
_SIDE = flags.DEFINE_enum("side", None, SIDES, "Only make two updates and print peak memory.")
DEPTHS = (4, 32)


def main(_: list[str]) -> None:
    """Measure and print."""
    if _SIDE.value:
        _print_peak(_SIDE.value)
        return
    xla.set_up()
    parts = {"update": _show_update, "memory": _show_memory, "compile": _show_compile}
    for part in _PARTS.value:
        parts[part]()
    print(load_average())


def _lengths() -> list[tuple[int, int]]:
    pairs = [lengths.split(":") for lengths in _LENGTHS.value]
    return [(int(prompt), int(completion)) for prompt, completion in pairs]


def _packing(completion: int, row_tokens: tuple[int, ...]) -> Packing:
    return make_packing(row_tokens, _AT_ONCE.value, completion, _ROWS.value, devices=1)


def _peers() -> tuple[str, ...]:
    return SIDES[1:] if has_trl() else SIDES[1:2]


def _side(name: str, prompt: int, completion: int) -> Callable[[], None]:
    """Return a function that makes one update of a side."""
    policy, params = named_policy(_MODEL.value, remat=_REMAT.value)
    # All completions have the same length, so wider rows would stay empty.
    packing = _packing(completion, (completion,))
    batch = random_batch(policy.config.vocab_size, prompt, completion, _ROWS.value, packing)
    if name == "selfreg":
        return Updates(policy, params, batch, dtype=_DTYPE.value, packing=packing)
    model = in_transformers(policy, params)
    if name == "trl":
        return trl_update(model, batch, _DTYPE.value, policy.tokenizer)
    return torch_update(model, batch, _DTYPE.value)


def _show_update() -> None:
    rows, ratios = [], []
    for prompt, completion in _lengths():
        ours = _side("selfreg", prompt, completion)
        tokens = _ROWS.value * (prompt + completion)
        for peer in _peers():
            own_s, peer_s = alternate(ours, _side(peer, prompt, completion), _ROUNDS.value)
            ratios.append(peer_s / own_s)
            rows.append(
                [
                    f"{prompt} + {completion}", peer, f"{own_s:.3f}", f"{peer_s:.3f}",
                    f"{tokens / own_s:,.0f}", f"{tokens / peer_s:,.0f}", f"{peer_s / own_s:.2f}x",
                ]
            )  # fmt: skip
    params = named_policy(_MODEL.value)[1]
    ceiling, size = matmul_ceiling(_DTYPE.value), count_parameters(params)
    show(
        f"{_MODEL.value}: update, {_DTYPE.value}, {_ROWS.value} rows, median of {_ROUNDS.value}",
        ["lengths", "peer", "selfreg s", "peer s", "selfreg tok/s", "peer tok/s", "ratio"],
        rows,
        f"Tokens are prompt + completion of every row. Limit of a plain step: {size:,} parameters "
        f"x 6 FLOP per token at {ceiling / 1e9:.0f} GFLOP/s (a {MATMUL_SIZE}-square product) = "
        f"{ceiling / 6 / size:,.0f} tokens/s. Sharing the prompt can exceed that limit."
        + ("" if has_trl() else " TRL was not run, because it is not installed."),
    )
    show_aims([Aim("at least 1.0x", f"{min(ratios):.2f}x", min(ratios) >= 1)])


def _peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes.

    getrusage's value would be wrong, because a child inherits the peak of the benchmark's process.
    """
    status = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) for row in status.splitlines() if "VmHWM" in row) * 1024


class Peak(NamedTuple):
    """The resident bytes of a process before it loaded its model, and at its peak."""

    before: int
    most: int


def _print_peak(name: str) -> None:
    """Make two updates of one side, and print the memory before them and at the peak."""
    before = _peak_bytes()
    update = _side(name, *_lengths()[0])
    update()
    update()
    print(*Peak(before, _peak_bytes()))


def _measured_peaks() -> dict[str, Peak]:
    """Return the memory of each side's process."""
    prompt, completion = _lengths()[0]
    own = [f"--lengths={prompt}:{completion}", f"--rows={_ROWS.value}", f"--model={_MODEL.value}"]
    own += [f"--dtype={_DTYPE.value}", f"--remat={_REMAT.value}"]
    own += [f"--microbatch_rows={_AT_ONCE.value}"]
    peaks = {}
    with tempfile.TemporaryDirectory() as programs:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": programs,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        } | GIVE_BACK  # fmt: skip
        for name in ("selfreg, compiling", "selfreg", *_peers()):
            side = name.removesuffix(", compiling")
            command = [sys.executable, "-m", "benchmarks.train_step", f"--side={side}", *own]
            run = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
            peaks[name] = Peak(*map(int, run.stdout.split()[-2:]))
    return peaks


def _show_memory() -> None:
    prompt, completion = _lengths()[0]
    peaks = _measured_peaks()
    grown = {name: peak.most - peak.before for name, peak in peaks.items()}
    show(
        f"{_MODEL.value}: peak memory of two updates, {_DTYPE.value}, {_ROWS.value} rows of "
        f"{prompt} + {completion}",
        ["side", "process GB", "above imports GB", "selfreg is"],
        [
            [
                name, f"{peak.most / 1e9:.2f}", f"{grown[name] / 1e9:.2f}",
                f"{grown['selfreg'] / grown[name]:.2f}x",
            ]
            for name, peak in peaks.items()
        ],
        "Peak resident memory. Each side runs in a separate process that returns freed memory at "
        "once. benchmarks.plan compares it with the plan.",
    )  # fmt: skip
    show_aims(
        [
            Aim("not above torch", f"{grown['selfreg'] / grown['torch']:.2f}x",
                grown["selfreg"] <= grown["torch"]),
        ]
    )  # fmt: skip


def _show_compile() -> None:
    """Print the seconds to compile an update at two depths."""
    jax.config.update("jax_enable_compilation_cache", False)
    prompt, completion = _lengths()[0]
    rows = []
    config = named_policy(_MODEL.value)[0].config
    for depth in DEPTHS:
        policy = of_shape(replace(config, layers=depth), remat=_REMAT.value)
        packing = _packing(completion, ())
        batch = random_batch(config.vocab_size, prompt, completion, _ROWS.value, packing)
        begun = time.perf_counter()
        lowers = learner_of(policy, dtype=_DTYPE.value, packing=packing).lower(batch)
        programs = [lowers[name]() for name in ("update", "gradient", "step") if name in lowers]
        traced = time.perf_counter()
        for program in programs:
            program.compile()
        done = time.perf_counter()
        lines = sum(program.as_text().count("\n") for program in programs)
        rows.append((str(depth), traced - begun, done - traced, lines))
    jax.config.update("jax_enable_compilation_cache", True)
    show(
        f"{_MODEL.value}: compiling the update, {_DTYPE.value}",
        ["layers", "trace s", "compile s", "lines of program"],
        [[depth, f"{trace:.1f}", f"{build:.1f}", str(n)] for depth, trace, build, n in rows],
        "Layers are stacked and scanned, so the program is the same at any depth.",
    )
    (_, *_, short), (_, *_, long) = rows
    show_aims([Aim("no more program at 32 layers", f"{long / short:.2f}x", long <= short)])


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")  # 7B needs most of a GPU
    app.run(main)
