"""Find held-out problems that also occur in a training set.

Two problems are the same if their texts have the same words, if their tests are the same, or if
their solutions are the same and not short. They are also the same if most n-grams of the held-out
problem's text, or of its solution's code, occur in the training problem (as in Brown et al. 2020,
"Language Models are Few-Shot Learners", appendix C).
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from selfreg.run.records import Problem

# Words in an n-gram, the fewest n-grams by which a problem is compared, and the share of them that
# the other problem must have.
TEXT_WORDS, TEXT_LEAST, TEXT_SHARE = 8, 16, 0.6
CODE_WORDS, CODE_LEAST, CODE_SHARE = 12, 30, 0.8
# An n-gram of more training problems than this is boilerplate, and does not count.
_COMMON = 20
# Solutions of fewer tokens may be the same by chance.
_LONG_CODE = 20

_WORD = re.compile(r"\w+")
_CODE = re.compile(r"\w+|[^\w\s]")
_COMMENT = re.compile(r"#[^\n]*|//[^\n]*")


class Overlap(NamedTuple):
    """A pair of problems that are the same.

    Attributes:
      held_out: The id of the held-out problem.
      train: The id of the training problem.
      by: "text", "tests" or "code" if these are the same; "words of the text" or "words of the
        code" for n-grams in common.
      share: The share of the held-out problem's n-grams that the training problem has; 1.0 if the
        whole text, tests or code are the same.
    """

    held_out: str
    train: str
    by: str
    share: float


def find_overlap(train: Sequence[Problem], held_out: Sequence[Problem]) -> list[Overlap]:
    """Return the problems of `held_out` that also occur in `train`, each with its closest match.

    The time is linear in the length of the texts. The n-grams in memory are those of `held_out`
    alone, however large `train` is.
    """
    found: dict[str, Overlap] = {}
    for by, whole in (("text", _whole_text), ("tests", _whole_tests), ("code", _whole_code)):
        first = {key: p.id for p in reversed(train) if (key := whole(p))}
        for problem in held_out:
            twin = first.get(whole(problem) or 0)
            if twin and problem.id not in found:
                found[problem.id] = Overlap(problem.id, twin, by, 1.0)
    for by, length, least, share, read in (
        ("words of the text", TEXT_WORDS, TEXT_LEAST, TEXT_SHARE, lambda p: _words(p.spec)),
        ("words of the code", CODE_WORDS, CODE_LEAST, CODE_SHARE, _code),
    ):
        rest = {p.id: _runs(read(p), length) for p in held_out if p.id not in found}
        wanted = set().union(*rest.values())
        where: defaultdict[int, list[str]] = defaultdict(list)
        for problem in train:
            for run in _runs(read(problem), length) & wanted:
                where[run].append(problem.id)
        for name, runs in rest.items():
            twin, common = _closest(runs, where, least)
            if twin and common >= share:
                found[name] = Overlap(name, twin, by, common)
    return [found[p.id] for p in held_out if p.id in found]


def _closest(runs: set[int], where: Mapping[int, Sequence[str]], least: int) -> tuple[str, float]:
    """Return the problem with most of these n-grams, and its share; ("", 0.0) if too few count."""
    telling = [run for run in runs if len(where.get(run, ())) <= _COMMON]
    hits = Counter(name for run in telling for name in where.get(run, ()))
    if len(telling) < least or not hits:
        return "", 0.0
    name, count = hits.most_common(1)[0]
    return name, count / len(telling)


def _whole_text(problem: Problem) -> int:
    return hash(" ".join(_words(problem.spec)))


def _whole_tests(problem: Problem) -> int:
    tests = problem.tests
    return hash("".join(tests.code.split()) or tests.stdio)


def _whole_code(problem: Problem) -> int:
    words = _code(problem)
    return hash(tuple(words)) if len(words) >= _LONG_CODE else 0


def _runs(words: Sequence[str], length: int) -> set[int]:
    ends = range(len(words) - length + 1)
    return {hash(tuple(words[start : start + length])) for start in ends}


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _code(problem: Problem) -> list[str]:
    """Return the tokens of a solution, without its starter and its comments."""
    code = (problem.solution or "").removeprefix(problem.starter)
    return _CODE.findall(_COMMENT.sub("", code))
