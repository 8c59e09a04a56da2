"""The real SGLang server on a CPU without GPU: its environment, built once, and its command line.

SGLang's own files are unmodified. Three packages that do not exist for a CPU (sgl_kernel,
torchvision, triton) are replaced by stubs in `stubs/`. The environment is in ~/.cache/selfreg, or
in $SELFREG_SGLANG.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
_FILES = ("requirements.txt", "without_dependencies.txt")
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_TRY_AGAIN_S = 3600.0
OPTIONS = (
    "--device cpu --attention-backend torch_native --sampling-backend pytorch --sleep-on-idle "
    "--max-total-tokens 16384 --max-running-requests 64 --disable-overlap-schedule"
)
ENVIRONMENT = (
    f"CUDA_VISIBLE_DEVICES= SGLANG_USE_CPU_ENGINE=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "
    f"PYTHONPATH={HERE / 'stubs'}"
)


def python() -> str:
    """Return the Python interpreter that has SGLang.

    The first call installs it, which takes 1.6 GB and a minute or two.

    Raises:
      RuntimeError: SGLang cannot be installed.
    """
    given = os.environ.get("SELFREG_SGLANG")
    wanted = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in _FILES)).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "selfreg"
    folder = Path(given) if given else cache / f"sglang-{wanted[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists() and not given:
            _refuse_again(folder)
            _install(folder)
    return str(folder / "bin" / "python")


def _refuse_again(folder: Path) -> None:
    """Raise the error of a recent failed installation, so that not every test tries again."""
    failed = folder / "failed"
    if failed.exists() and time.time() - failed.stat().st_mtime < _TRY_AGAIN_S:
        raise RuntimeError(failed.read_text())


def _install(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    first, second = (["-r", str(HERE / name)] for name in _FILES)
    # The Makefile's newer pip takes half the time. Without it, the old one still works.
    _pip(folder, ["--constraint", str(HERE.parent.parent / "constraints.txt"), "pip"])
    # Try this machine's usual index first. It may lack torch without CUDA, so add PyTorch's next.
    said = _pip(folder, first) and _pip(folder, ["--extra-index-url", _CPU_INDEX, *first])
    said = said or _pip(folder, ["--no-deps", *second])
    (folder / ("failed" if said else "done")).write_text(said)
    if said:
        raise RuntimeError(said)


def _pip(folder: Path, arguments: list[str]) -> str:
    """Run pip, and return an error message, or an empty string after success."""
    options = ("--quiet", "--no-compile", "--disable-pip-version-check")
    command = [folder / "bin" / "pip", "install", *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"SGLang cannot be installed: {done.stderr[-300:]}" if done.returncode else ""


if __name__ == "__main__":
    print(python())
