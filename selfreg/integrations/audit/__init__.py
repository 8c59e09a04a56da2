"""Judge runs of other trainers: `selfreg.audit(series)`.

The module is callable, because the function and the command `python -m selfreg.audit FILE...` share
a name, and importing one must not hide the other.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfreg.integrations.audit.judge import Audit

__all__ = ["audit", "read_logs"]


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> "Audit":
        """See selfreg.integrations.audit.judge.audit."""
        return audit(*args, **kwargs)


def audit(*args: Any, **kwargs: Any) -> "Audit":
    """Judge a series of mean rewards: see selfreg.integrations.audit.judge.audit."""
    from selfreg.integrations.audit.judge import (
        audit as judge,  # imported late, so that the command starts without NumPy
    )

    return judge(*args, **kwargs)


def read_logs(*args: Any, **kwargs: Any) -> Any:
    """Read the runs of a file or folder: see selfreg.integrations.audit.files.read_logs."""
    from selfreg.integrations.audit.files import read_logs as read

    return read(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
