"""The command line: verbs, help, refused mistakes, and the package as pip installs it."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from selfreg.cli.verbs import VERBS
from selfreg.run import shipped
from selfreg.run.config import KEYS

ROOT = Path(__file__).parent.parent
# What a command takes without dashes.
TAKES_ARGUMENTS = {"audit": "no-such-log", "watch": "no-such-log", "data": "check no-such-source"}

# absl's flags are global, so each command has a process of its own: forks of one that has loaded
# what most of them load.
CALLER = """
import json, os, sys, tempfile, traceback
import jax, matplotlib.figure, numpy, pyarrow.parquet, rich.table, scipy.stats, transformers
from selfreg.cli.verbs import run

def call(arguments):
    files = [tempfile.TemporaryFile("w+") for _ in range(2)]
    child = os.fork()
    if not child:
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        sys.argv = ["selfreg", *arguments]
        try:
            run()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = []
    for file in files:
        file.seek(0)
        said.append(file.read())
    return code, *said

print(json.dumps([call(arguments) for arguments in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Run several command lines; for each its exit code, output and errors."""
    folder = tmp_path_factory.mktemp("empty")

    def call(*lines):
        done = subprocess.run(
            [sys.executable, "-c", CALLER], input=json.dumps([line.split() for line in lines]),
            cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def test_the_list_of_verbs_loads_no_library():
    code = (
        "import sys; from selfreg.cli.verbs import run; sys.argv = ['selfreg', '--help']; run()\n"
        "for heavy in ('jax', 'torch', 'transformers', 'numpy', 'absl', 'rich'):\n"
        "    assert heavy not in sys.modules, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.line)}$", done.stdout, re.MULTILINE)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_mistakes_in_the_verb(call):
    answers = call(
        "trian --config=tiny", "--config=configs/tiny.py", "qqq", "--version", "help", ""
    )
    wrong, no_verb, strange, version, listed, nothing = answers
    assert wrong[0] == no_verb[0] == strange[0] == 2
    assert "did you mean train?" in wrong[2]
    assert "selfreg train" in no_verb[2]
    assert "did you mean" not in strange[2]
    assert version == [0, "selfreg 0.1.0\n", ""]
    assert listed == nothing
    assert listed[0] == 0


def test_each_verb_explains_itself(call):
    answers = call(*(f"{verb} --help" for verb in VERBS), "help promote")
    for (name, verb), (code, said, error) in zip(VERBS.items(), answers, strict=False):
        assert (code, error) == (0, ""), name
        first, second = said.splitlines()[:2]
        assert first.startswith(f"usage: selfreg {name}")
        module = second.removeprefix("usage: python -m ").split()[0]
        # The name after `python -m` is the same file.
        found = importlib.util.find_spec(module)
        if found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{module}.__main__")
        assert found.origin == importlib.util.find_spec(verb.module).origin
        assert "--[no]only_check_args" not in said  # absl's own flags
        if name != "train":
            assert len(said.splitlines()) <= 80
        for example in re.findall(r"^    (selfreg .*)$", said, re.MULTILINE):
            assert example.split()[1] in VERBS
    assert answers[-1] == answers[list(VERBS).index("promote")]


def test_help_about_a_word(call):
    optimizer, learned, flag, upper, strange, no_value, none = call(
        "train --help optimizer", "train --help=moment", "promote --help LEVEL",
        "plan --help mesh.TENSOR", "train --help optimiser_lr", "export --help dtype",
        "promote --help levle",
    )  # fmt: skip
    names = re.findall(r"--config\.([\w.]+)=", optimizer[1])
    assert set(names) >= {key for key in KEYS if key.startswith("optimizer.")}
    assert len(names) < 30
    assert "[optimizer]" in optimizer[1]
    assert "usage" not in optimizer[1]
    assert "optimizer.b1" in learned[1]
    assert "optimizer.lr" not in learned[1]
    assert "--level=0.05" in flag[1]
    assert "--run" not in flag[1]
    assert "--config.mesh.tensor=1" in upper[1]
    assert strange[0] == none[0] == 2
    assert "did you mean" in strange[2]
    assert "did you mean level?" in none[2]
    assert [answer[0] for answer in (optimizer, learned, flag, upper, no_value)] == [0] * 5


def test_help_may_be_read_in_part():
    command = f"set -o pipefail; {sys.executable} -m selfreg train --help | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: selfreg train")


def test_no_command_ignores_what_it_was_given(call):
    """For each: an argument without dashes, a misspelt flag, an empty text."""
    named = {
        "train": "workdir",
        "plan": "devices",
        "sweep": "runs",
        "doctor": None,
        "status": "runs",
    }
    named |= {"analyze": "runs", "replay": "run", "regrade": "run", "evaluate": "model"}
    named |= {"export": "out", "promote": "run", "audit": "out", "watch": "stop_file"}
    named |= {"calibrate": "out", "pretrain": "out", "data": "model"}
    assert named.keys() == VERBS.keys()
    lines, expected = [], []
    for verb, flag in named.items():
        takes = TAKES_ARGUMENTS.get(verb, "")
        if not takes:
            lines.append(f"{verb} straying")
            expected.append("'straying' is no flag")
        if flag:
            lines += [f"{verb} {takes} --{flag[:-1]}z{flag[-1:]}=1", f"{verb} {takes} --{flag}="]
            expected += [f"--{flag}", f"--{flag}= is empty"]
        else:
            lines.append(f"{verb} --sample=3")
            expected.append("there is no flag --sample")
    for line, words, (code, said, error) in zip(lines, expected, call(*lines), strict=True):
        assert (code, said) == (2, ""), (line, said, error)
        assert words in error, line
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_settings_of_a_config_that_would_be_lost(call):
    for code, _, error in call(
        "train --config=tiny config.seed=17", "plan --config=tiny config.seed=17",
        "sweep --config=tiny config.seed=17",
    ):  # fmt: skip
        assert code == 2
        assert "did you mean --config.seed=17?" in error
    answers = call(
        "train --config=tiny --seed=17", "train --config.seed=17", "train --config=",
        "train --config=tniy", "sweep --config=w71", "train --config tniy:7b",
    )  # fmt: skip
    expected = (
        "did you mean --config.seed?", "name it first: --config=", "--config= is empty",
        "did you mean tiny?", "did you mean w7?", "--config=tniy:7b: there is no such file",
    )  # fmt: skip
    for (code, _, error), words in zip(answers, expected, strict=True):
        assert code == 2
        assert words in error


OWN = """
from ml_collections import ConfigDict
from configs import own, paper, tiny

def get_config() -> ConfigDict:
    config = tiny.get_config()
    config.name = f"{own.NAME}-{paper.__file__}"
    return config
"""
FIND = """
import runpy, sys
from selfreg.run import shipped
file = shipped.config_file(sys.argv[1])
print(file)
print(runpy.run_path(file.partition(":")[0])["get_config"](*file.split(":")[1:]).name)
"""


@pytest.mark.parametrize("with_init", [False, True])
def test_a_folder_configs_of_ones_own_goes_first(tmp_path, with_init):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "mine.py").write_text(OWN)
    (folder / "own.py").write_text("NAME = 'mine'\n")
    (folder / "w17.py").write_text(OWN)
    if with_init:
        (folder / "__init__.py").touch()

    def find(text):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", FIND, text], cwd=tmp_path, env=environment, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    shared = str(shipped.FOLDER / "paper.py")
    assert find("configs/mine.py") == ["configs/mine.py", f"mine-{shared}"]
    assert find("configs/w17.py")[1] == f"mine-{shared}"
    # A name is one that ships; so is a path where no such file is.
    assert find("w17:tiny")[0] == f"{shipped.FOLDER / 'w17.py'}:tiny"
    assert find("configs/tiny.py") == [str(shipped.FOLDER / "tiny.py"), "tiny"]
    (folder / "paper.py").touch()
    assert find("configs/mine.py")[1] == f"mine-{folder / 'paper.py'}"
    assert find("w17:tiny")[1].startswith("w17")  # with the paper.py beside it


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources."""
    pytest.importorskip("setuptools", "77")
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("selfreg", "configs", "launch"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, f"--wheel-dir={out}", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_holds_every_file(wheel):
    ours = {
        str(file.relative_to(ROOT))
        for name in ("selfreg", "configs", "launch")
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
        (entries,) = (name for name in opened.namelist() if name.endswith("entry_points.txt"))
        assert "selfreg = selfreg.cli.verbs:run" in opened.read(entries).decode()
    assert names == ours
    assert len({Path(name).suffix for name in ours}) >= 7  # .py, .j2, .json, .toml, .cpp, ...


def test_what_is_installed_trains_and_sweeps_outside_of_a_clone(wheel, tmp_path):
    site, folder = tmp_path / "site", tmp_path / "elsewhere"
    folder.mkdir()
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run("-c", "import selfreg, launch; print(selfreg.__file__, launch.__file__)")
    assert all(str(site) in file for file in where.split())
    assert "20 chains" in run("-m", "selfreg", "sweep", "--config=w17:tiny", "--dry_run")
    small = {
        "campaigns": 1, "campaign_budget_steps": 1, "rollout.group_size": 2,
        "problems.panel_count": 2, "problems.report_count": 2, "evaluation.panel_samples": 1,
        "evaluation.report_samples": 1, "grading.validate": False,
    }  # fmt: skip
    settings = [f"--config.{name}={value}" for name, value in small.items()]
    run("-m", "selfreg", "train", "--config=tiny", "--workdir=run", *settings)
    assert (folder / "run" / "report.html").is_file()
