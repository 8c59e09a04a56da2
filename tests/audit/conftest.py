import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def trl_state() -> Path:
    """Return the path of a real trainer_state.json: TRL 1.16.0, transformers 5.23.0, on a CPU.

    GRPOTrainer trained a random Qwen2 of two layers and 32 dimensions over 24 characters: prompts
    of four letters, reward 1 for an answer that starts with a letter, 32 completions per step in
    groups of 8, constant lr 3e-3, beta 0.01, seed 7, 30 steps of at most 6 tokens, logging_steps 1.
    Only the white space was removed.
    """
    return Path(__file__).parent / "trainer_state.json"


class Command:
    """The command line, run in a process of its own."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __call__(self, *arguments):
        command = [sys.executable, "-m", "selfreg.audit", *map(str, arguments), f"--out={self.out}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def records(self):
        """Read the JSON files that were written, by name."""
        return {f.name: json.loads(f.read_text()) for f in sorted(self.out.glob("*.audit.json"))}


@pytest.fixture
def command(tmp_path) -> Command:
    return Command(tmp_path / "out")
