"""Judge many files and write each run's text, plot, JSON and page; a bad file stops no other."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfreg.integrations.audit.files import read_logs
from selfreg.integrations.audit.judge import Audit, audit
from selfreg.integrations.audit.logs import Log
from selfreg.integrations.audit.show import describe, title
from selfreg.run.records import to_json

COMPARISON = "audit.html"
_UNSAFE = re.compile(r"[^\w.=+-]+")
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line; None selects the default of `audit` or `read_logs`."""

    column: str | None = None
    step_column: str | None = None
    samples: float | None = None
    problems: float | None = None
    window: int | None = None
    margin: float | None = None
    low: float | None = None
    high: float | None = None
    out: Path = Path()
    html: bool = False


def audit_all(paths: Sequence[Path], options: Options, say: Callable[[str], None]) -> list[str]:
    """Judge every run of every path, and write the results.

    Args:
      paths: Files and folders.
      options: The options of the command line.
      say: Receives the text of each run as soon as it is judged.

    Returns:
      One line for each file or run that could not be judged.
    """
    errors: list[str] = []
    judged: list[tuple[Log, Audit]] = []
    links: list[str] = []
    taken: set[str] = set()
    for path in paths:
        try:
            logs = read_logs(
                path,
                options.column,
                options.step_column,
                lambda why: say(f"Left out: {_one_line(why)}"),
            )
        except (ValueError, OSError) as error:
            errors.append(_one_line(error))
            continue
        except Exception as error:  # an unforeseen kind of file must not stop the others
            errors.append(f"{path} cannot be read: {type(error).__name__}: {_one_line(error)}")
            continue
        for log in logs:
            try:
                result = _judge(log, options)
            except ValueError as error:
                errors.append(f"{title(log)}, {log.column!r}: {_one_line(error)}")
                continue
            text = describe(log, result)
            name = _file_name(log, options.out, taken)
            _write(log, result, text, name, options)
            say(("\n" if judged else "") + text + f"\nPlot: {options.out / f'{name}.audit.png'}")
            judged.append((log, result))
            links.append(f"{name}.audit.html")
    if options.html and judged:
        _write_comparison(judged, links, errors, options, say)
    return errors


def _judge(log: Log, options: Options) -> Audit:
    return audit(
        log.values, options.samples, options.problems, log.steps, options.window, options.margin,
        low=options.low, high=options.high, facts=log.facts, parts=log.parts, failure=log.failure,
    )  # fmt: skip


def _write(log: Log, result: Audit, text: str, name: str, options: Options) -> None:
    from selfreg.analysis.plot import image
    from selfreg.integrations.audit.draw import figure

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.audit.png").write_bytes(image(figure(log, result), "png"))
    record = {
        "text": text, "file": str(log.file), "run": log.name, "column": log.column,
        **to_json(result),
    }  # fmt: skip
    (options.out / f"{name}.audit.json").write_text(json.dumps(record), encoding="utf-8")
    if options.html:
        from selfreg.integrations.audit.pages import run_page

        html = run_page(log, result, text)
        (options.out / f"{name}.audit.html").write_text(html, encoding="utf-8")


def _write_comparison(
    judged: Sequence[tuple[Log, Audit]], links: Sequence[str], errors: Sequence[str],
    options: Options, say: Callable[[str], None],
) -> None:  # fmt: skip
    if len(judged) < 2:
        say(f"Page: {options.out / links[0]}")
        return
    from selfreg.integrations.audit import compare
    from selfreg.integrations.audit.pages import comparison_page

    html = comparison_page(judged, links, errors)
    (options.out / COMPARISON).write_text(html, encoding="utf-8")
    told = [compare.describe(pair) for pair in compare.pairs(judged)]
    say("\n" + "\n".join([*told, f"Page: {options.out / COMPARISON}"]))


def _file_name(log: Log, out: Path, taken: set[str]) -> str:
    """Choose a file name that no other run of this command, and no other file's audit, uses."""
    file = log.file.resolve()
    run = f".{log.name}" if log.name else ""
    tried = [file.name + run, f"{file.parent.name}-{file.name}{run}"]
    tried += [f"{tried[-1]}-{i}" for i in range(2, 10_000)]
    for name in tried:
        name = _UNSAFE.sub("_", name)[-_LONGEST:].lstrip(".-") or "run"
        if name.lower() not in taken and _is_ours(out / f"{name}.audit.json", log):
            taken.add(name.lower())
            return name
    raise ValueError(f"{out} holds too many audits of files named {file.name}")


def _is_ours(file: Path, log: Log) -> bool:
    """Return whether an audit file is missing, or belongs to this run of this log."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return (
        isinstance(record, dict)
        and record.get("file") == str(log.file)
        and record.get("run") == log.name
    )


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())
