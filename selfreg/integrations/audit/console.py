"""Parse the console output of trainers into tables, one parser and one table per format.

verl        step:3 - critic/score/mean:0.25 - ...
dict        {'loss': 0.1, 'reward': 0.5}: TRL, OpenRLHF (Global step 3: {...}), slime (rollout 3:
            {...}), SkyRL (over several lines), ROLL (JSON), LLaMA-Factory, ms-swift
bar         a progress bar's own numbers: OpenRLHF's Train epoch [1/1]: 3/8 [..., reward=0.5]
bullets     Step 3/100, then lines "name: number": NeMo-RL, MLX
pipes       Step 3 | Reward 0.5 | ...: prime-rl; and tables drawn with bars: Stable-Baselines, AReaL
pairs       any other line of name=number or name: number

The first parser that recognises a line takes it. All tables are returned, and the caller chooses
the one that holds the metric.
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from selfreg.integrations.audit.settings import Settings
from selfreg.integrations.audit.table import Builder, Table

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]{0,500}\x07|[\x00-\x08\x0b-\x1f]")
_RAY = re.compile(r"^\([\w.:]+(?:\([^)]*\))? pid=\d+(?:, ip=[\d.]+)?\)\s?")
_NUMBER = (
    r"[-+]?(?:\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan\b|inf\b|NaN\b|Infinity\b)"
)
_WRAPPED = rf"(?:[\w.]+\(\[?)?({_NUMBER})"

_VERL = re.compile(r"\bstep:(\d+)((?: - [^\s:]+:\S+)+)")
_VERL_VALUE = re.compile(rf" - ([^\s:]+):{_WRAPPED}")
_DICT_START = re.compile(r"\{\s*['\"]")
_DICT_PAIR = re.compile(
    rf"['\"]([^'\"]+)['\"]\s*:\s*['\"]?(?:(\d+/\d+)['\"]|(?:[\w.]+\(\[?)?({_NUMBER})(?=\W|$))"
)
_DICT_STEP = re.compile(
    r"(?i)\b(?:(?:global|train|training)[ _])?(?:step|rollout|perf|eval|iteration|iter)"
    r"\s*#?(\d+)[^:{]*:\s*$"
)
_CONTINUED = re.compile(r"^\s*(?:['\"}\])]|[-+\d.]+[,}])")
_STEP_ALONE = re.compile(r"(?i)\b(?:step|iteration|iter)\s*#?(\d+)\s*:\s*$")
_BAR = re.compile(
    r"(?P<name>[^|%\r{}'\"\]]{0,80}?(?:\[[^|%\r\]]{0,20}\])?)(?::\s+|^\s*|\s+)\d+%\|[^|]*\|\s*(?P<done>\d+)/(?P<all>\d+)\s*"
    r"\[(?P<rest>[^\]]*)\]?"
)
_BAR_VALUE = re.compile(rf"(?<![\w/.@-])([A-Za-z_][\w/.@-]{{0,80}})=({_NUMBER})")
_HEADING = re.compile(
    r"^[\s=*#▶-]*(?:(?:Epoch\s+\d+/\d+\s+)?Step\s+\d+/\d+\s+)?"
    r"(?P<name>Train step|Step|Iter(?:ation)?)\s+(?P<step>\d+)(?:\s*/\s*\d+)?\s*"
    r"(?P<rest>[:|]|done\.?|[=\s]*$)"
)
_BULLET = re.compile(
    rf"^\s*[•*\-]?\s*([A-Za-z][\w /.()%-]{{0,60}}?)\s*:\s+(?:μ=)?({_NUMBER}%?)(?=[\s,s(]|$)"
)
_SEGMENT = re.compile(rf"^\s*([A-Za-z][\w ./-]{{0,60}}?)\s*[:\s]\s*({_NUMBER})(%?)\s*\S*\s*$")
_COMMA_PAIR = re.compile(
    r"(?<![\w/.@-])([A-Za-z_][\w/.@-]{0,60}(?: [A-Za-z_][\w/.@-]{0,60}){0,4}?)"
    rf"\s{{0,20}}[:=\s]\s{{0,20}}({_NUMBER})(?=[\s,;|)\]]|$)"
)
_LOGGER = re.compile(
    r"^(?:.*?\b(?:INFO|SUCCESS|WARNING|DEBUG)\b[\s:\]-]*"
    r"|\[?\d{4}-\d\d-\d\d[ T][\d:.,]+\]?[\s:-]*|\d\d:\d\d:\d\d\s+)+"
)
_MAX_DICT_LINES = 5_000
_MAX_LINE = 1 << 20
_MOST_BARS = 8
# A longer line is prose without pairs. The text before a dict is searched only this far back.
_MOST_PLAIN, _MOST_BEFORE = 10_000, 500
BAR = "progress bar"


class Console:
    """Parser of console output; `read` returns the tables found."""

    def __init__(self) -> None:
        self.settings = Settings()
        self._rows = {
            form: Builder() for form in ("verl", "dict", "bar", "bullets", "pipes", "pairs")
        }
        self._names = {
            "dict": "printed dicts",
            "bar": "progress bar",
            "bullets": "console",
            "pipes": "console",
            "pairs": "console",
        }
        self._open: list[str] = []
        self._depth = 0
        self._step: float | None = None
        self._bars: dict[str, int] = {}
        self._bar_at: dict[str, list[tuple[int, int]]] = {}
        self._bar_row: tuple[str, list[dict[str, float]]] | None = None
        self._bar_count = 0
        self._block: dict[str, float] | None = None
        self._block_step: float | None = None
        self._pipes: dict[str, float] | None = None
        self._section = ""
        self._previous = ""

    def read(self, lines: Iterable[str]) -> list[Table]:
        """Parse all lines.

        Returns:
          A table for each format that occurs.
        """
        for line in lines:
            if len(line) > _MAX_LINE and "{" not in line:
                self._rows["pairs"].dropped["lines of more than 1 MiB"] += 1
                continue
            line = _ANSI.sub("", line) if any(c < " " for c in line) else line
            self._line(_RAY.sub("", line))
        self._end_bar()
        self._end_block()
        self._end_pipes()
        facts = self.settings.facts
        return [
            self._with_bars(rows.table(self._names.get(form, form), facts), form)
            for form, rows in self._rows.items()
            if rows.rows
        ]

    def _line(self, line: str) -> None:
        if self._open:
            if _CONTINUED.match(line) and len(self._open) < _MAX_DICT_LINES:
                self._open.append(line)
                self._depth += line.count("{") - line.count("}")
                if self._depth <= 0:
                    self._end_dict()
                return
            self._end_dict()
        if not line.strip():
            return
        # A log stored without carriage returns has text and progress bars on one line.
        end = 0
        for bar in _BAR.finditer(line) if "%|" in line else ():
            self._text(line[end : bar.start()])
            self._bar(bar)
            end = bar.end()
        self._text(line[end:])

    def _text(self, line: str) -> None:
        if not line.strip():
            return
        if found := ("step:" in line and _VERL.search(line)):
            self._rows["verl"].add({"step": found[1], **dict(_VERL_VALUE.findall(found[2]))})
        elif "{" in line and (start := _DICT_START.search(line)):
            self._dict(line, start.start())
        elif line.lstrip().startswith(("|", "│")) or _RULE.match(line):
            self._drawn(line)
        else:
            self._plain(line)
        self._previous = line

    # Dictionaries.

    def _dict(self, line: str, start: int) -> None:
        before = line[max(0, start - _MOST_BEFORE) : start]
        step = _DICT_STEP.search(before)
        alone = None if before.strip(" >") else _STEP_ALONE.search(self._previous)
        self._step = float(step[1]) if step else float(alone[1]) if alone else None
        self._open = [line[start:]]
        self._depth = self._open[0].count("{") - self._open[0].count("}")
        if self._depth <= 0:
            self._end_dict()

    def _end_dict(self) -> None:
        text = " ".join(self._open)
        self._open = []
        self.settings.read(text)
        row = dict_row(text)
        if not row:
            return
        rows = self._rows["dict"]
        for key, done in self._bars.items():
            self._bar_at.setdefault(key, []).append((rows.rows, done))
        if self._step is not None:
            row.setdefault("step", self._step)
        rows.add(row)

    # Progress bars.

    def _bar(self, found: re.Match[str]) -> None:
        name, done = found["name"].strip(), int(found["done"])
        key = f"{name} of {found['all']}"
        if key not in self._bars and len(self._bars) >= _MOST_BARS:
            self._bars.pop(next(iter(self._bars)))
        if self._bar_row is not None and done < self._bars.get(key, 0):
            self._end_bar()
        self._bars[key] = done
        values = {k: float(v) for k, v in _BAR_VALUE.findall(found["rest"])}
        if values:
            if self._bar_row is None or self._bar_row[0] != name:
                self._end_bar()
                self._bar_row = (name, [])
            shown = self._bar_row[1]
            if not shown or shown[-1] != values:
                shown.append(values)

    def _end_bar(self) -> None:
        """Add a row for the finished bar: the mean of each value that it showed."""
        if self._bar_row is None:
            return
        _, shown = self._bar_row
        names = dict.fromkeys(name for values in shown for name in values)
        self._bar_count += 1
        means = {
            name: sum(v[name] for v in shown if name in v) / sum(name in v for v in shown)
            for name in names
        }
        self._rows["bar"].add({**means, "bars": self._bar_count})
        self._bar_row = None

    def _with_bars(self, table: Table, form: str) -> Table:
        """Add the training's progress bar to the table of dicts: the bar that moved most often."""
        if form != "dict" or not self._bar_at:
            return table
        best = max(self._bar_at.values(), key=lambda seen: len({done for _, done in seen}))
        if len({done for _, done in best}) < 2:
            return table
        builder = Builder()
        for row, done in best:
            builder.rows = row
            builder.number(BAR, float(done))
        column = builder.table("").numbers[BAR]
        return replace(table, numbers={**table.numbers, BAR: column})

    # Drawn tables.

    def _drawn(self, line: str) -> None:
        """Parse a line "| name | value |" of a table drawn by Stable-Baselines or AReaL."""
        if _RULE.match(line):
            if self._pipes and not line.lstrip().startswith(("├", "╞")):
                self._end_pipes()
            return
        cells = re.split(r"[|│]", line.strip())[1:-1]
        self._pipes = self._pipes if self._pipes is not None else {}
        for name, value in zip(cells[::2], cells[1::2], strict=False):
            if not value.strip():
                if name.strip().endswith("/"):
                    self._section = name.strip()
                continue
            found = re.fullmatch(_NUMBER, value.strip())
            if found and name.strip():
                prefix = self._section if name.startswith("    ") else ""
                self._pipes.setdefault(prefix + name.strip(), float(found[0]))

    def _end_pipes(self) -> None:
        if self._pipes:
            if self._block_step is not None:
                self._pipes.setdefault("step", self._block_step)
            self._rows["pipes"].add(self._pipes)
        self._pipes, self._section = None, ""

    # Headings, bullets and other lines.

    def _plain(self, line: str) -> None:
        self._end_pipes() if self._pipes else None
        self.settings.read(line)
        text = _LOGGER.sub("", line)
        if found := (_HEADING.match(text) or _HEADING_AT.search(line)):
            step = float(found["step"])
            rest = text[text.find(found[0]) + len(found[0]) :] if found[0] in text else ""
            if found["rest"] == "|":
                self._rows["pipes"].add({"step": step, **_segments(rest.split("|"))})
                return
            if found["name"] == "Train step":
                self._block_step = step
                return
            self._end_block()
            self._block, self._block_step = {}, step
            if rest.strip():
                self._rows["pairs"].add({"step": step, **_pairs(rest)})
            return
        if self._block is not None and (found := _BULLET.match(text)):
            self._block.setdefault(found[1].strip(), _fraction(found[2]))
            return
        pairs = _pairs(text) if len(text) <= _MOST_PLAIN else {}
        if len(pairs) > 1 or any("reward" in name.lower() for name in pairs):
            for done in list(self._bars.values())[-1:]:
                pairs.setdefault(BAR, float(done))
            self._rows["pairs"].add(pairs)

    def _end_block(self) -> None:
        if self._block:
            self._rows["bullets"].add({"step": self._block_step, **self._block})
        self._block = None


_RULE = re.compile(r"^\s*(?:[-+=]{8,}\s*$|[╒╘├╞┌└╔╚╠])")
_HEADING_AT = re.compile(r"(?P<name>Train step)\s+(?P<step>\d+)\s*/\s*\d+\s*(?P<rest>done\.?)")


def dict_row(text: str) -> dict[str, Any]:
    """Parse the numbers of a printed dictionary, Python or JSON; nested keys are joined."""
    if text.count("{") > 1:
        nested = _parsed(text)
        if nested is not None:
            return dict(nested)
    return {name: step or value for name, step, value in _DICT_PAIR.findall(text)}


def _parsed(text: str) -> Mapping[str, Any] | None:
    end = text.rfind("}") + 1
    for parse in (json.loads, ast.literal_eval):
        cleaned = text[:end]
        if parse is ast.literal_eval:
            cleaned = re.sub(rf"[A-Za-z_][\w.]*\(\[?({_NUMBER})[^()]*\)", r"\1", cleaned)
            cleaned = re.sub(r"\b(nan|inf|NaN|Infinity)\b(?!['\"])", r"'\1'", cleaned)
        try:
            value = parse(cleaned)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, Mapping):
            return value
    return None


def _segments(parts: Iterable[str]) -> dict[str, float]:
    row: dict[str, float] = {}
    for part in parts:
        if found := _SEGMENT.match(part):
            number = float(found[2])
            row.setdefault(found[1].strip(), number / 100 if found[3] else number)
        else:  # torchtune prints several pairs between two bars
            row = {**_pairs(part), **row}
    return row


def _pairs(text: str) -> dict[str, float]:
    row: dict[str, float] = {}
    for name, value in _COMMA_PAIR.findall(text):
        row.setdefault(name.strip(), float(value))
    return row


def _fraction(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)
