"""Study, detect and prevent rise-and-collapse in LLM self-training."""

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# `python -m selfreg.main`, `python -m selfreg.audit` and their like find their modules here.
__path__ += [str(Path(__file__).parent / room) for room in ("cli", "integrations")]


def __getattr__(name: str) -> Any:
    """selfreg.audit without importing it by name first; `import selfreg` stays light."""
    if name == "audit":
        return importlib.import_module("selfreg.audit")
    raise AttributeError(f"module 'selfreg' has no attribute {name!r}")
