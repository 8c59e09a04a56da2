"""The notebooks are stored without outputs, contain no logic of their own, and run to the end."""

import ast
import base64
import io
import re
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}

# The number of plots in each notebook, and some of its results.
PLOTS = {
    "01_tiny_chain": 2,
    "02_noise_or_collapse": 3,
    "03_figures": 5,
    "04_your_own_control": 1,
}
FILES = {
    "01_tiny_chain": ["tiny_chain/report.html", "tiny_chain/trajectory.png"],
    "02_noise_or_collapse": ["noise_or_collapse/verdict.json"],
    "03_figures": [
        "figures_out/comparison.md", "figures_out/paper/tables.md",
        "figures_out/paper/table_16.tex", "figures_out/paper/figure_3.svg",
    ],
    "04_your_own_control": [
        "your_own_control/plateau.py", "your_own_control/your_own/report.html",
    ],
}  # fmt: skip


def read(name):
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def sources(notebook):
    """Return a notebook's Python, without cells that write files and IPython commands."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.startswith("%%"):
            yield re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.MULTILINE)


def execute(notebook, folder, monkeypatch, *, fast=True):
    """Run a notebook's cells in a separate folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SELFREG_NOTEBOOK_FAST", str(int(fast)))
    for name in ("SELFREG_NOTEBOOK_RUN", "SELFREG_NOTEBOOK_RUNS"):
        monkeypatch.delenv(name, raising=False)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def data(outputs, kind):
    """Return the displayed data of one type, in order."""
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def test_there_are_four():
    assert list(NOTEBOOKS) == list(PLOTS) == list(FILES)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_stored_without_outputs(name):
    for cell in read(name).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_defines_no_logic(name):
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for source in sources(read(name)):
        assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, defined)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_installs_the_library_only_where_there_is_none(name):
    install, *others = [cell.source for cell in read(name).cells if cell.cell_type == "code"]
    assert re.search(
        r'^if importlib.util.find_spec\("selfreg"\) is None:.*\n    %pip', install, re.M
    )
    assert not any("%pip" in source for source in others)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_and_draws(name, tmp_path, monkeypatch):
    outputs = execute(read(name), tmp_path, monkeypatch)
    plots = [
        output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    assert len(plots) == PLOTS[name]
    for plot in plots:
        pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(plot)))
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.02  # not blank
    for file in FILES[name]:
        assert (tmp_path / "runs" / file).stat().st_size > 0


def test_a_policy_that_stands_still_prints_table_11(tmp_path, monkeypatch):
    """The statements of notebook 02 about its table hold at the setting that a reader runs."""
    notebook = read("02_noise_or_collapse")
    until = next(i for i, cell in enumerate(notebook.cells) if "np.geomspace" in cell.source)
    notebook.cells = notebook.cells[:until]
    outputs = execute(notebook, tmp_path, monkeypatch, fast=False)
    (table,) = data(outputs, "text/markdown")
    header, _, *rows = [[c.strip() for c in row.split("|")[1:-1]] for row in table.splitlines()]
    held = {name: [row[i].endswith("✓") for row in rows] for i, name in enumerate(header)}
    assert len(rows) == 12
    assert all(held["mean of 5"])
    assert all(held["mean of 3, concentration 9"])
    assert sum(held["mean of 5, full windows"]) < 6
    assert sum(held["single steps"]) == 2  # the two rows of mean ends, by construction


def test_the_controls_are_those_of_the_documentation():
    text = (ROOT / "docs/add_a_control.md").read_text()
    documented = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL))
    written = [c.source for c in read("04_your_own_control").cells if "%%writefile" in c.source]
    assert len(written) == 2
    for source in written:
        command, _, body = source.partition("\n")
        assert body.strip() == documented[Path(command).name].strip()
