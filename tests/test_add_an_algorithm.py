"""The examples in docs/add_an_algorithm.md, trained as printed there."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from selfreg.algorithms.parts.algorithm import Algorithm
from selfreg.loop import chain
from selfreg.policy.rollout import engines
from selfreg.run import rundir
from selfreg.run.algorithm import configure, find_algorithm, names
from selfreg.run.config import default
from selfreg.run.validate import resolve
from tests.test_chain import Scripted, small

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs/add_an_algorithm.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOC, re.DOTALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("algorithms")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def train(file, tmp_path, monkeypatch, **changes):
    """Return the metrics of two updates in which half of the samples pass."""
    monkeypatch.setattr(engines, "JaxEngine", Scripted)
    monkeypatch.setattr(Scripted, "script", (0.5,))
    own = {"campaigns": 1, "campaign_budget_steps": 2, "evaluation.every_steps": 2}
    chain.run_chain(small(**own, **changes, **{"learn.algorithm": str(file)}), tmp_path)
    learned = [r.metrics for r in rundir.read_records(tmp_path) if "loss" in r.metrics]
    assert len(learned) == 2
    assert min(m["update_norm"] for m in learned) > 0
    return learned


def test_a_token_loss_is_one_file(folder, tmp_path, monkeypatch):
    options = {"learn.options": ("tau=2",)}
    learned = train(folder / "squashed.py", tmp_path, monkeypatch, **options)
    # A script's logprobs are 0. The policy's are lower everywhere, in places by more than 2 nats.
    assert all(0 < m["far_fraction"] < 1 for m in learned)


def test_an_advantage_is_one_file(folder, tmp_path, monkeypatch):
    train(folder / "hard_first.py", tmp_path, monkeypatch)
    algorithm = find_algorithm(str(folder / "hard_first.py"))
    rewards = np.array([1, 0, 0, 0], np.float32)
    wanted = np.array([0.75, -0.25, -0.25, -0.25]) * 0.75
    np.testing.assert_allclose(algorithm.advantages(algorithm.settings, rewards), wanted)


def test_a_pair_loss_is_one_file(folder, tmp_path, monkeypatch):
    first, second = train(folder / "ipo.py", tmp_path, monkeypatch)
    assert first["ipo/pairs"] == 4  # 2 of 4 pass
    # At the reference itself, d is 0 and the loss is (1 / (2 tau))^2.
    assert first["loss"] == pytest.approx(25.0, rel=1e-3)
    assert second["loss"] < first["loss"]
    assert second["ipo/margin"] > 0


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("tau", "'tau' must be NAME=VALUE with a setting of .* \\(tau\\)"),
        ("rho=1", "'rho=1' must be NAME=VALUE"),
        ("clip_low=0.1", "'clip_low=0.1' must be NAME=VALUE"),
        ("tau=two", "'tau=two' is no float"),
        ("tau=-1", "'tau=-1' is not possible: must be above 0"),
    ],
)
def test_a_wrong_option_is_refused(option, words, folder):
    config = default()
    config.learn.algorithm, config.learn.options = str(folder / "squashed.py"), (option,)
    with pytest.raises(ValueError, match=words):
        resolve(config)


def test_an_algorithm_without_settings_of_its_own_takes_no_options():
    config = default()
    config.learn.options = ("tau=1",)
    with pytest.raises(ValueError, match="no key of its own \\(none\\)"):
        resolve(config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ALGORITHM = 3", "its ALGORITHM must be a Algorithm, is 3"),
        ("", "its ALGORITHM must be a Algorithm, is None"),
        (
            "from selfreg.algorithms.parts.algorithm import Algorithm\n"
            "ALGORITHM = Algorithm('', {'token_aggregation': 'sum'})",
            "its settings must be a dataclass with a field token_aggregation",
        ),
        (
            "from dataclasses import dataclass\n"
            "from selfreg.algorithms.parts.algorithm import Algorithm\n"
            "@dataclass\nclass Mine:\n    token_aggregation: str = 'sum'\n"
            "ALGORITHM = Algorithm('', Mine())",
            "no program can be compiled for it .*Mine.*frozen=True",
        ),
        (
            "from dataclasses import dataclass\n"
            "from selfreg.algorithms.parts.algorithm import Algorithm\n"
            "@dataclass(frozen=True)\nclass Mine:\n    scale: float = 1.0\n"
            "ALGORITHM = Algorithm('', Mine())",
            "its settings must be a dataclass with a field token_aggregation",
        ),
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_file_that_defines_none_is_refused(text, words, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    config = default()
    config.learn.algorithm = str(file)
    with pytest.raises(ValueError, match=words):
        resolve(config)


def test_a_file_that_is_not_there_is_refused():
    config = default()
    config.learn.algorithm = "nowhere.py"
    with pytest.raises(ValueError, match=r"config.learn.algorithm='nowhere.py': there is no such"):
        resolve(config)


@pytest.mark.parametrize("name", names())
def test_an_algorithm_is_a_key_for_compiled_programs(name):
    config = default()
    config.learn.algorithm, config.learn.updates_per_batch = name, 5  # kl_cov needs several
    learn = resolve(config).learn
    one, two = (configure(find_algorithm(name), learn) for _ in range(2))
    assert isinstance(one, Algorithm)
    assert (one, hash(one)) == (two, hash(two))
    assert re.search(r"\d{4}", one.paper)  # at least a year


def test_nothing_outside_names_an_algorithm():
    """Except conditions.py, where a condition may select an algorithm."""
    # Search for quoted strings only, because prose may mention algorithms.
    quoted = re.compile("|".join(f"[\"']{name}[\"']" for name in names()))
    package = ROOT / "selfreg"
    files = [f for f in package.rglob("*.py") if package / "algorithms" not in f.parents]
    found = {f.name for f in files if quoted.search(f.read_text())}
    assert found == {"conditions.py"}


def test_settings_are_read_without_jax():
    code = "import sys, selfreg.run.config as c; c.describe(); print('jax' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"
