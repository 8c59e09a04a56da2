"""Run the tiny variant of waves, sources first, and print how long each took.

    python tests/tiny_waves.py RUNS_FOLDER              # all
    python tests/tiny_waves.py RUNS_FOLDER w17 w18

This is not part of the test suite, because it takes an hour or two on 2 cores. Running the same
command again resumes. The exit code is 1 if a chain did not finish.
"""

import subprocess
import sys
import time

# table2 needs fig1's checkpoints, and w18 needs first campaigns of w17.
WAVES = (
    "fig1", "table1", "table2", "w1", "w1v2", "w2", "w3", "w4", "w6", "w7", "w8", "w12", "w14",
    "w15", "w17", "w18", "gemma",
)  # fmt: skip


def main() -> int:
    runs, *chosen = sys.argv[1:]
    codes = []
    for wave in chosen or WAVES:
        command = [sys.executable, "-m", "launch.sweep", f"--config=configs/{wave}.py:tiny"]
        since = time.monotonic()
        code = subprocess.run([*command, f"--runs={runs}", "--jobs=2"], check=False).returncode
        print(f"{wave}:tiny exit {code} after {time.monotonic() - since:.0f} s", flush=True)
        codes.append(code)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
