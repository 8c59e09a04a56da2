"""Compare planned memory with the memory that sampling and updates really use on this CPU.

    pip install memray
    python -m benchmarks.plan --model=tiny --lengths=100:96,500:512
    python -m benchmarks.plan --model=random:smollm2 --lengths=128:96 --panel=8

memray counts the bytes that are allocated and not yet freed, regardless of freed memory that the
allocator keeps. Once all programs are compiled, everything is deleted and created again. So memray
sees what the plan covers: the weights, the moments and the engine's weights, and then sampling the
step's and the panel's completions, or one update. One in STOPPING token ids ends a completion, so
that batches shrink and are packed, as the plan assumes.
"""

import gc
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from benchmarks.batch import TEMPERATURE, Updates, named_policy, random_batch
from benchmarks.table import Aim, show, show_aims, spread
from selfreg.cli.plan.fit import Place
from selfreg.cli.plan.job import Draws, Job, make_job, packing_of
from selfreg.cli.plan.memory import estimate
from selfreg.cli.plan.weights import Split
from selfreg.policy import xla
from selfreg.policy.mesh import make_mesh
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run.config import default
from selfreg.run.records import Request, Sampling
from selfreg.run.validate import resolve

_MODEL = flags.DEFINE_string("model", "tiny", "tiny, smollm2, a folder or random:NAME.")
_LENGTHS = flags.DEFINE_list("lengths", ["32:96", "100:96", "500:512"], "PROMPT:COMPLETION tokens.")
_ROWS = flags.DEFINE_integer("rows", 16, "Completions of the step's single problem.", 1)
_PANEL = flags.DEFINE_integer("panel", 24, "Problems in a panel.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Number of measurements of each phase.", 1)
STOPPING = 80
WITHIN = 0.15


def main(_: list[str]) -> None:
    """Measure the memory of each phase, and print it beside the plan."""
    try:
        import memray
    except ImportError:
        print("not run: this needs `pip install memray`")
        return

    def most_bytes(work: Callable[[], None]) -> int:
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder, "record.bin")
            with memray.Tracker(record):
                work()
            return memray.FileReader(record).metadata.peak_memory

    xla.set_up()
    rows, off = [], []
    for lengths in _LENGTHS.value:
        prompt, completion = map(int, lengths.split(":"))
        for phase, planned, work in _phases(prompt, completion):
            work()
            measured = [most_bytes(work) / 1e6 for _ in range(_ROUNDS.value)]
            off.append(planned / 1e6 / float(np.median(measured)) - 1)
            words = [f"{prompt} + {completion}", phase, spread(measured, 1), f"{planned / 1e6:.1f}"]
            rows.append([*words, f"{off[-1]:+.0%}"])
    show(
        f"{_MODEL.value}: most memory in use, MB, {_ROWS.value} completions, a panel of "
        f"{_PANEL.value} problems",
        ["lengths", "while it", "measured", "planned", "off"],
        rows,
        f"Measured: median (least..greatest) of {_ROUNDS.value}.",
    )
    worst = max(off, key=abs)
    show_aims([Aim(f"planned within {WITHIN:.0%}", f"{worst:+.0%}", abs(worst) <= WITHIN)])


def _phases(prompt: int, completion: int) -> list[tuple[str, float, Callable[[], None]]]:
    """Return the phases of a job: a name, the planned bytes, and a function that runs the phase."""
    config = default()
    config.rollout.group_size, config.rollout.max_new_tokens = _ROWS.value, completion
    config.problems.panel_count = config.problems.report_count = _PANEL.value
    # All completions have the same length. Wider rows would be planned, but stay empty.
    config.learn.row_tokens = (completion,)
    policy, params = named_policy(_MODEL.value, remat=config.model.remat)
    threads = Place(1, 0.0, gpu=False).threads
    job = make_job(
        resolve(config), policy.config, gpu=False, threads=threads, lengths=(prompt, completion)
    )
    memory, packing = estimate(job, Split(1, 1, 1)), packing_of(job, 1)
    vocabulary = policy.config.vocab_size
    batch = random_batch(vocabulary, prompt, completion, _ROWS.value, packing)
    updates = Updates(policy, params, batch, dtype=config.model.dtype, packing=packing)
    engine = JaxEngine(
        replace(policy, stop_ids=tuple(range(3, vocabulary, STOPPING))), make_mesh(-1, 1, 1),
        dtype=config.model.dtype, max_sequences=config.rollout.max_sequences,
    )  # fmt: skip
    sampling = Sampling(TEMPERATURE, 1.0, 0, completion)
    weights = jax.tree.map(np.array, params)
    del params

    def begin() -> None:
        del updates.state
        gc.collect()
        updates.state = jax.block_until_ready(updates.learner.init(weights))
        engine.load_params(updates.state.params)

    def draw() -> None:
        begin()
        for draws in (job.train, job.panel):
            engine.generate(_requests(job, draws, vocabulary), sampling)

    def learn() -> None:
        begin()
        updates()

    stays = sum(memory.stays.values())
    return [
        ("draws", stays + sum(memory.sample.values()), draw),
        ("learns", stays + sum(memory.update.values()), learn),
    ]


def _requests(job: Job, draws: Draws, vocabulary: int) -> list[Request]:
    generator = np.random.default_rng(0)
    return [
        Request(
            generator.integers(3, vocabulary, job.prompt).astype(np.int32),
            generator.integers(2**32, size=draws.group, dtype=np.uint32),
        )
        for _ in range(draws.problems)
    ]


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main)
