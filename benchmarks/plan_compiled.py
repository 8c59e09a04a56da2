"""Compare planned memory with the memory that XLA's CUDA compiler allocates, without any GPU.

    python -m benchmarks.plan_compiled                     # compiles what is not recorded yet
    python -m benchmarks.plan_compiled --cases=3b-1x1x1:update,gemma-1x8x1 --check --jobs=2
    python -m benchmarks.plan_compiled --write             # what is recorded, into the docs' table

This needs the extra `gpu-compile`, but no GPU. It compiles the programs of whole models. The
results are recorded in benchmarks/plan_compiled.json, each with a digest of the lowered program. A
program is compiled again only if its digest has changed. The exit code is 1 if any plan is off by
more than a tenth.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from benchmarks.plan_cases import CASES, Case, configure

_CASES = flags.DEFINE_list("cases", [], "Which: NAME or NAME:PROGRAM; none: all.")
_CHECK = flags.DEFINE_bool("check", False, "Compile what is recorded too, and record nothing.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Programs compiled beside each other; 2 to 4 GB each.", 1)
_WRITE = flags.DEFINE_bool("write", False, "Only put what is recorded into docs/performance.md.")
ROOT = Path(__file__).parent.parent
RECORDS, PAGE = Path(__file__).with_suffix(".json"), ROOT / "docs/performance.md"
BEGIN, END = "<!-- plan_compiled -->\n", "<!-- /plan_compiled -->\n"
WITHIN = 0.10
COLUMNS = ("case", "program", "planned", "compiled", "off", "arguments", "temporaries", "host")


class Record(NamedTuple):
    """The compiler's result for one program: bytes per device, and seconds of compilation."""

    case: str
    program: str
    digest: str
    arguments: int
    made: int
    temporaries: int
    host: int
    attention: str
    seconds: float

    @property
    def peak(self) -> int:
        """Bytes that the program allocates on a device."""
        return self.arguments + self.made + self.temporaries


def main(_: list[str]) -> None:
    """Compile, record and compare the cases, or write the table of the recorded ones."""
    wanted = [*_wanted(_CASES.value or CASES)]
    records = {} if _CHECK.value else read_records()
    if _WRITE.value:
        found = [
            records[key] for key in ((c.name, program) for c, program in wanted) if key in records
        ]
        _write(found)
    else:
        found = [*_compiled(wanted, records)]
    worst = max(found, key=lambda record: abs(off(record)))
    print(f"The farthest off is {worst.case}'s {worst.program}: {off(worst):+.1%}.")
    if abs(off(worst)) > WITHIN:
        sys.exit(1)


def _compiled(
    wanted: list[tuple[Case, str]], known: dict[tuple[str, str], Record]
) -> Iterator[Record]:
    """Yield the record of each program, and save it as soon as it is there."""
    tasks = [(case, program, known.get((case.name, program))) for case, program in wanted]
    with ProcessPoolExecutor(_JOBS.value, get_context("spawn"), max_tasks_per_child=1) as pool:
        for record in pool.map(_compile, *zip(*tasks, strict=True)):
            print(line(record), flush=True)
            if not _CHECK.value:
                _save(read_records() | {(record.case, record.program): record})
            yield record


def _wanted(names: Iterable[str]) -> Iterator[tuple[Case, str]]:
    """Yield each wanted case with each of its wanted programs."""
    for name, _, program in (each.partition(":") for each in names):
        if name not in CASES or program not in ("", *CASES[name].programs):
            sys.exit(f"no case {name} with a program {program}; there are {', '.join(CASES)}")
        for each in (program,) if program else CASES[name].programs:
            yield CASES[name], each


def read_records() -> dict[tuple[str, str], Record]:
    """Read the saved records, by case and program."""
    if not RECORDS.exists():
        return {}
    known = [Record(**fields) for fields in json.loads(RECORDS.read_text())]
    return {(record.case, record.program): record for record in known}


def planned(record: Record) -> float:
    """Return the bytes per device that a plan gives for the same program."""
    from selfreg.cli.plan.job import make_job
    from selfreg.cli.plan.memory import of_programs

    case = CASES[record.case]
    config, decoder = configure(case)
    return of_programs(make_job(config, decoder, gpu=True), case.split)[record.program]


def off(record: Record) -> float:
    """Return the plan's excess over the compiler's bytes, as a fraction of the latter."""
    return planned(record) / record.peak - 1


def line(record: Record) -> str:
    """Format a row of the Markdown table, in GB per device."""
    sizes = planned(record), record.peak, record.arguments, record.temporaries, record.host
    plan, peak, *others = (f"{size / 1e9:.1f}" for size in sizes)
    cells = [CASES[record.case].title, record.program, plan, peak, f"{off(record):+.1%}", *others]
    return f"| {' | '.join(cells)} |"


def _compile(case: Case, name: str, known: Record | None) -> Record:
    """Compile one program and return its record; the known record if the program is unchanged."""
    import hashlib
    import time

    from selfreg.cli.plan.compiled import lower_programs, report
    from selfreg.cli.plan.deviceless import cudnn_asks, described_devices
    from selfreg.cli.plan.job import make_job
    from selfreg.policy.mesh import make_mesh

    config, decoder = configure(case)
    devices = described_devices(case.device, case.split.size)
    mesh = make_mesh(*case.split, devices=devices)
    with cudnn_asks(devices[0]):
        lowered = lower_programs(config, make_job(config, decoder, gpu=True), mesh)[name]()
        # This text leaves out file names and line numbers, which do not change the program.
        digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16]
        if known is not None and known.digest == digest:
            return known
        begun = time.perf_counter()
        found = report(lowered.compile(), mesh.size, seconds=time.perf_counter() - begun)
    return Record(
        case.name, name, digest, found.arguments, found.made, found.temporaries, found.host,
        found.attention, round(time.perf_counter() - begun, 1),
    )  # fmt: skip


def _save(records: dict[tuple[str, str], Record]) -> None:
    rows = [json.dumps(record._asdict()) for _, record in sorted(records.items())]
    RECORDS.write_text("[\n" + ",\n".join(rows) + "\n]\n")


def _write(records: Sequence[Record]) -> None:
    head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
    table = head + "".join(f"{line(record)}\n" for record in records)
    page = PAGE.read_text()
    if BEGIN not in page:
        sys.exit(f"{PAGE} has no {BEGIN.strip()}")
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(between.sub(lambda _: BEGIN + table + END, page))


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"  # compilation takes no GPU from a run
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main)
