"""Study, detect and prevent rise-and-collapse in LLM self-training."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """selfreg.audit without importing it by name first; `import selfreg` stays light."""
    if name == "audit":
        return importlib.import_module("selfreg.audit")
    raise AttributeError(f"module 'selfreg' has no attribute {name!r}")
