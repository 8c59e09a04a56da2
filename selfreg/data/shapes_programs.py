"""Convert rows of competition problems: whole programs with inputs and outputs, or calls."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from selfreg.data.cases import (
    Cases,
    NoTests,
    decode,
    join_cases,
    read_cases,
    read_code,
    stdio_cases,
)
from selfreg.data.harness import (
    APPS_CHECKER,
    APPS_SETUP,
    CODEFORCES_CHECKER,
    CONTESTS_CHECKER,
    FUSION_CHECKER,
    LCB_CHECKER,
    LCB_SETUP,
)
from selfreg.data.json_values import get_value
from selfreg.data.shapes_functions import strings, unix
from selfreg.data.testcode import call_tests, called_name
from selfreg.run.records import Checker, Language, Problem, StdioCase, Tests

Row = Mapping[str, Any]

_LANGUAGES = {
    Language.PYTHON: r"py|python *[\d.]*",
    Language.CPP: r"cpp *\d*|(gnu *)?(c|g)\+\+ *\d*.*",
}
# Matches JSON and base64; any other test is Python code.
_ENCODED = re.compile(r"\s*[\[{]|\s*[\w+/]+=*\s*\Z", re.ASCII)


def from_apps(row: Row, name: str) -> Problem:
    """Convert a row of APPS, TACO or TACO-verified."""
    cases = read_cases(row.get("input_output"), "input_output")
    solutions = row.get("solutions") or []
    return _problem(
        row,
        _id(row, "APPS", name, ("problem_id", "id")),
        get_value(row, "question"),
        cases,
        solution=next(iter(_solutions(solutions)), None),
        category=row.get("difficulty") or "",
    )


def from_areal(row: Row, name: str) -> Problem:
    """Convert a row of AReaL: cases as in APPS, with the question under `prompt`."""
    cases = read_cases(row.get("input_output"), "input_output")
    solution = next(iter(_solutions(row.get("solutions") or [])), None)
    return _problem(
        row,
        _id(row, "AReaL", name, ("query_id",)),
        text_of(row["prompt"]),
        cases,
        solution=solution,
    )


def from_code_contests(row: Row, name: str) -> Problem:
    """Convert a row of CodeContests as its authors publish it, with tests of all three kinds."""
    if row.get("input_file") or row.get("output_file"):
        raise NoTests("programs that read or write files")
    kinds = [_contest_tests(row, f"{kind}_tests") for kind in ("public", "private", "generated")]
    stdio = tuple(case for kind in kinds for case in kind)
    if not stdio:
        raise NoTests("no test cases")
    return Problem(
        id=row.get("name") or name,
        spec=get_value(row, "description").strip(),
        tests=Tests(stdio=stdio, checker=CONTESTS_CHECKER),
        solution=_contest_solution(row.get("solutions")),
    )


def from_codeforces(row: Row, name: str) -> Problem:
    """Convert a row of open-r1/codeforces: official tests and, if present, a generated checker."""
    if row.get("interaction_format"):
        raise NoTests("interactive problems")
    if row.get("input_mode") not in (None, "", "stdio"):
        raise NoTests("programs that read or write files")
    tests = [
        {key: case.get(key) for key in ("input", "output")}
        for case in decode(row.get("official_tests"), "official_tests")
    ]
    checker = CODEFORCES_CHECKER
    if row.get("generated_checker"):
        checker = Checker("program", program=row["generated_checker"], protocol="printed")
    parts = (("", "description"), ("Input", "input_format"), ("Output", "output_format"))
    texts = [f"{title}\n{row[key]}".strip() for title, key in parts if row.get(key)]
    texts += [
        f"Example input\n{example['input']}\nExample output\n{example['output']}"
        for example in row.get("examples") or []
    ]
    if row.get("note"):
        texts.append(f"Note\n{row['note']}")
    cases = read_cases(tests, "official_tests")
    return Problem(
        id=f"Codeforces/{row.get('id') or name}",
        spec="\n\n".join(texts),
        tests=Tests(stdio=tuple(map(_unix_case, cases.stdio)), checker=checker),
        language=_language(row.get("language"), "language"),
        category=str(row.get("rating") or ""),
    )


def from_sandbox_fusion(row: Row, name: str) -> Problem:
    """Convert a row of SandboxFusion: inputs and outputs, LiveCodeBench's encoding, or asserts."""
    labels = _labels(row)
    identity = labels.get("name") or labels.get("task_id") or name
    spec, category = get_value(row, "content").strip(), str(labels.get("difficulty", ""))
    test = get_value(row, "test", (str, list))
    language = _language(labels.get("programming_language"), "labels")
    if isinstance(test, str) and test.strip() and not _ENCODED.match(test):
        code = f"{test.strip()}\n"
        return Problem(
            identity, spec, Tests(code=code), entry_point=called_name(code), category=category
        )
    data = decode(test, "test") if test else None
    if isinstance(data, list) and not data:
        raise ValueError("'test' must list at least one {'input': {'stdin'}, 'output': {'stdout'}}")
    if isinstance(data, list) and all(isinstance(_part(case, "input"), Mapping) for case in data):
        inputs = [get_value(get_value(case, "input", Mapping), "stdin") for case in data]
        outputs = [get_value(get_value(case, "output", Mapping), "stdout") for case in data]
        return Problem(
            identity,
            spec,
            Tests(stdio=stdio_cases(inputs, outputs), checker=FUSION_CHECKER),
            language=language,
            category=category,
        )
    cases = _fusion_cases(data)
    return _problem(
        row, identity, spec, cases, setup=LCB_SETUP, checker=LCB_CHECKER, unwraps=False,
        category=category,
    )  # fmt: skip


def from_live_code_bench(row: Row, name: str) -> Problem:
    """Convert a row of LiveCodeBench's code_generation or code_generation_lite."""
    metadata = decode(row.get("metadata") or {"": ""}, "metadata")
    function = metadata.get("func_name") or ""
    keys = [key for key in ("public_test_cases", "private_test_cases") if row.get(key)]
    cases = join_cases([read_cases(row[key], key, function) for key in keys])
    if not keys:
        raise NoTests("no test cases")
    return _problem(
        row,
        _id(row, "LiveCodeBench", name, ("question_id",)),
        get_value(row, "question_content"),
        cases,
        setup=LCB_SETUP,
        checker=LCB_CHECKER,
        unwraps=False,
        category=row.get("difficulty") or "",
    )


def from_verl(row: Row, name: str) -> Problem:
    """Convert a row of Eurus-2 or other verl data: the reward's ground truth holds the cases."""
    reward = decode(row["reward_model"], "reward_model")
    _only_code(row.get("ability"))
    cases = read_cases(_part(reward, "ground_truth"), "ground_truth")
    return _problem(row, name, text_of(row["prompt"]), cases)


def from_skyrl(row: Row, name: str) -> Problem:
    """Convert a row of SkyRL: verl's form, with the reward under `reward_spec`."""
    reward = decode(row["reward_spec"], "reward_spec")
    _only_code(row.get("ability"))
    cases = read_cases(_part(reward, "ground_truth"), "ground_truth")
    return _problem(row, name, text_of(row["prompt"]), cases)


def from_deepcoder(row: Row, name: str) -> Problem:
    """Convert a row of DeepCoder, whose `tests` come in three encodings."""
    metadata = row.get("metadata") or {}
    metadata = decode(metadata, "metadata") if metadata else {}
    function = metadata.get("func_name") or "" if isinstance(metadata, Mapping) else ""
    cases = read_cases(row["tests"], "tests", function)
    is_lcb = "metadata" in row or "starter_code" in row
    return _problem(
        row,
        name,
        text_of(row["problem"]),
        cases,
        solution=next(iter(_solutions(row.get("solutions") or [])), None),
        **(_LCB if is_lcb else {}),
    )


def from_verification_info(row: Row, name: str) -> Problem:
    """Convert a row with `verification_info`.

    SYNTHETIC-1 and -2, verifiable-coding-problems, and open-r1's and TRL's code rewards have it.
    """
    _only_code(row.get("task_type"))
    info = decode(row["verification_info"], "verification_info")
    if not isinstance(info, Mapping):
        raise ValueError(f"'verification_info' must be an object, not {info!r:.60}")
    if "test_cases" not in info:
        raise NoTests("no test cases")
    if odd := [
        key for key in info if key not in ("language", "test_cases", "fn_name") and info[key]
    ]:
        raise ValueError(f"'verification_info' has the unknown part {odd[0]!r}")
    language = _language(info.get("language"), "verification_info")
    cases = read_cases(info["test_cases"], "test_cases", info.get("fn_name") or "")
    text = row["problem"] if "problem" in row else row["prompt"]
    return _problem(
        row,
        _id(row, "PrimeIntellect", name, ("problem_id",)),
        text_of(text),
        cases,
        language=language,
        solution=read_code(row.get("gold_standard_solution")),
    )


def from_rstar(row: Row, name: str) -> Problem:
    """Convert a row of rStar-Coder's test cases."""
    table = {key: decode(row.get(key), key) for key in ("inputs", "outputs")}
    cases = read_cases(table, "inputs", row.get("func_name") or "")
    return _problem(
        row,
        _id(row, "rStar", name, ("question_id",)),
        get_value(row, "question"),
        cases,
        unwraps=False,
    )


def from_nemotron(row: Row, name: str) -> Problem:
    """Convert a row of Nemotron-RL's coding problems."""
    request = decode(row["responses_create_params"], "responses_create_params")
    metadata = decode(row["verifier_metadata"], "verifier_metadata")
    cases = read_cases(_part(metadata, "unit_tests"), "unit_tests")
    return _problem(
        row, _id(row, "Nemotron", name, ("hash_id",)), text_of(_part(request, "input")), cases
    )


_LCB: dict[str, Any] = {"setup": LCB_SETUP, "checker": LCB_CHECKER, "unwraps": False}


def _problem(
    row: Row,
    identity: str,
    spec: str,
    cases: Cases,
    *,
    setup: str = APPS_SETUP,
    checker: Checker = APPS_CHECKER,
    unwraps: bool = True,
    language: Language = Language.PYTHON,
    solution: str | None = None,
    category: str = "",
) -> Problem:
    """Make a problem from its cases; the answer is a whole program, a function or a method."""
    starter = row.get("starter_code") or ""
    if cases.stdio:
        used = setup if language is Language.PYTHON else ""
        tests = Tests(setup=used, stdio=cases.stdio, checker=checker)
    elif language is not Language.PYTHON:
        raise ValueError("calls of functions are graded in Python only")
    else:
        in_class = "class Solution" in starter
        code = call_tests(cases.name, cases.calls, in_class=in_class, unwraps=unwraps)
        tests = Tests(setup=setup, code=code)
        if cases.name not in f"{spec}{starter}":
            spec = f"{spec.rstrip()}\nThe function's name is `{cases.name}`."
    return Problem(
        id=identity,
        spec=spec.strip(),
        tests=tests,
        language=language,
        entry_point=cases.name or None,
        starter=starter if cases.calls else "",
        solution=solution,
        category=str(category),
    )


def text_of(prompt: Any) -> str:
    """Return the question of a prompt, which is a text or the messages of a chat."""
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, Sequence) or not all(isinstance(m, Mapping) for m in prompt):
        raise ValueError(f"a prompt must be text or a list of messages, not {prompt!r:.60}")
    texts = [get_value(message, "content") for message in prompt if message.get("role") == "user"]
    if not texts:
        raise ValueError("a prompt must have a message of the user")
    return "\n\n".join(texts)


def _id(row: Row, prefix: str, name: str, keys: Sequence[str]) -> str:
    """Return the row's own id after the set's name; `name` if the row has no id."""
    found = next((row[key] for key in keys if row.get(key) not in (None, "")), None)
    return name if found is None else f"{prefix}/{found}"


def _part(value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected an object with the key {key!r}, not {value!r:.60}")
    return value.get(key)


def _only_code(kind: Any) -> None:
    """Leave out a row that a mixed data set marks as something other than code."""
    if isinstance(kind, str) and kind and "cod" not in kind.lower():
        raise NoTests(f"{kind} is not code")


def _language(name: Any, key: str) -> Language:
    """Read the programming language of a row, in any usual spelling; Python if it names none."""
    for language, pattern in _LANGUAGES.items():
        if re.fullmatch(pattern, str(name or "python").lower()):
            return language
    raise ValueError(f"{key!r} names the language {name!r}; python and cpp are graded")


def _solutions(value: Any) -> list[str]:
    texts = strings(decode(value, "solutions")) if value else []
    return [code for text in texts if (code := read_code(text))]


def _labels(row: Row) -> Mapping[str, Any]:
    labels = decode(row["labels"], "labels") if row.get("labels") else {}
    if not isinstance(labels, Mapping):
        raise ValueError(f"'labels' must be an object, not {labels!r:.60}")
    return labels


def _fusion_cases(data: Any) -> Cases:
    """Read LiveCodeBench's cases from a SandboxFusion row, where `input_output` may hold them."""
    if isinstance(data, Mapping) and "input_output" in data:
        data = decode(data["input_output"], "input_output")
    return read_cases(data, "test")


def _contest_tests(row: Row, key: str) -> tuple[StdioCase, ...]:
    """Read one kind of tests: two lists, or the records that some readers of the file return."""
    tests = row.get(key)
    if not tests:
        return ()
    if isinstance(tests, Mapping):
        inputs, outputs = tests.get("input") or (), tests.get("output") or ()
        return stdio_cases(strings(inputs), strings(outputs))
    return read_cases(list(tests), key).stdio if len(tests) else ()


def _contest_solution(solutions: Any) -> str | None:
    """Return the first solution in Python 3 (number 3 in CodeContests); None if there is none."""
    if isinstance(solutions, Mapping):
        languages, texts = solutions.get("language", ()), solutions.get("solution", ())
        pairs = list(zip(languages, texts, strict=False))
    else:
        pairs = [(s.get("language"), s.get("solution")) for s in solutions or ()]
    return next((text for language, text in pairs if language in (3, "PYTHON3")), None)


def _unix_case(case: StdioCase) -> StdioCase:
    """Give a Codeforces case Unix line ends; its Windows ones would confuse programs on Unix."""
    return StdioCase(unix(case.stdin), unix(case.stdout))
