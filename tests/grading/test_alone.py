"""Test that the pool works without the rest of selfreg."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_of_the_readme_runs():
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (text for text in examples if "GraderPool" in text)
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True, timeout=60
    )
    assert re.findall(r"Outcome\.(\w+)", done.stdout) == ["PASSED", "EXCEPTION"]


def test_the_import_is_light():
    code = "import sys, selfreg.grading\nprint(*sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    heavy = {"jax", "flax", "transformers", "pyarrow", "scipy", "matplotlib", "rich", "absl"}
    # These modules work only on Linux, but any machine that reads runs must be able to import.
    heavy |= {"selfreg.grading.sandbox", "selfreg.grading.program"}
    assert not heavy.intersection(done.stdout.split())


def test_the_doctor_says_what_holds():
    done = subprocess.run(
        [sys.executable, "-m", "selfreg.grading.doctor"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^rlimits .*memory is bounded .*holds", done.stdout, re.MULTILINE)
    assert re.search(r"The grader uses (ns|userns|landlock)", done.stdout)
    assert re.search(r"\d+ programs/s on \d+ workers", done.stdout)
