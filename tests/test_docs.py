"""The documentation beside the repository: lines fit, links resolve, and what is named exists."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
]
COLUMNS = 120
FOLDERS = "selfreg|docs|tests|configs|benchmarks|launch|notebooks"
# The findings name modules as they were called then.
DATED = ROOT / "docs/log.md"

SOURCES = [
    *(file for folder in FOLDERS.split("|") for file in sorted((ROOT / folder).rglob("*.py"))),
    *(ROOT / name for name in ("setup.py", "Makefile", "pyproject.toml")),
]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def lines(page):
    """Numbered from 1."""
    return list(enumerate(page.read_text().splitlines(), 1))


@each_page
def test_lines_fit(page):
    # A row of a table cannot be broken.
    long = [number for number, line in lines(page) if len(line) > COLUMNS and line[:1] != "|"]
    assert not long, f"lines of more than {COLUMNS} columns: {long}"


@each_page
def test_relative_links_resolve(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@each_page
def test_paths_exist(page):
    if page == DATED:
        pytest.skip("names what was there on its dates")
    # In capitals: what a reader fills in.
    paths = re.findall(rf"`((?:{FOLDERS})/[^`\s:,*{{]+)(?::[^`\s]*)?`", page.read_text())
    real = [path for path in paths if path == path.lower()]
    assert [path for path in real if not (ROOT / path).exists()] == []


@each_page
def test_modules_exist(page):
    if page == DATED:
        pytest.skip("names what was there on its dates")
    named = set(re.findall(r"`(selfreg(?:\.[A-Za-z_]+)+)\b", page.read_text()))
    assert sorted(name for name in named if not resolves(name)) == []


@each_page
def test_commands_exist(page):
    if page == DATED:
        pytest.skip("names what was there on its dates")
    named = set(re.findall(r"python -m ((?:selfreg|launch|benchmarks)[.\w]*)", page.read_text()))
    assert sorted(name for name in named if not is_command(name.rstrip("."))) == []


@each_page
def test_verbs_exist(page):
    table = pytest.importorskip("selfreg.cli.verbs")
    blocks = re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL)
    named = set(re.findall(r"^(?:\$ )?selfreg ([a-z]+)\b", "\n".join(blocks), re.MULTILINE))
    named |= set(re.findall(r"`selfreg ([a-z]+)\b", page.read_text()))
    assert sorted(named - set(table.VERBS)) == []


def test_every_room_has_its_page():
    rooms = {file.parent.name for file in (ROOT / "selfreg").glob("*/__init__.py")}
    assert {page.stem for page in (ROOT / "docs/reference").glob("*.md")} == rooms
    drawn = (ROOT / "docs/architecture.md").read_text()
    assert [room for room in rooms if f"(reference/{room}.md)" not in drawn] == []


def test_sources_cite_documents_of_this_repository():
    # In lower case and without a folder: what a command writes.
    pattern = re.compile(r"\b(?:docs/[\w/]+|[A-Z][A-Z_]+)\.md\b|\.\./shared\b")
    cited = {(file.name, name) for file in SOURCES for name in pattern.findall(file.read_text())}
    assert sorted((file, name) for file, name in cited if not (ROOT / name).is_file()) == []


def find(name):
    """The module of a dotted name, or None; only packages are imported."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # what stands before the last dot is no package
        return None


def resolves(name):
    """Whether a dotted name is a module, or defined in the source of one."""
    module, members = name, []
    while find(module) is None:
        module, _, member = module.rpartition(".")
        members = [member, *members]
    source = Path(find(module).origin).read_text()
    defines = r"^\s*(?:def|class) {0}\b|^\s*{0}\b.*[=:]|^from .* import .*\b{0}\b"
    return all(re.search(defines.format(m), source, re.MULTILINE) for m in members)


def is_command(name):
    """Whether `python -m name` runs something."""
    spec = find(name)
    if spec is None or spec.submodule_search_locations is None:
        return spec is not None
    return find(f"{name}.__main__") is not None
