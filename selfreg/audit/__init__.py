"""Other people's runs, judged: `selfreg.audit(series, samples_per_step, problems_per_step)`.

The module can be called: the function has the command's name, `python -m selfreg.audit FILE...`,
and whichever of the two is imported first must not hide the other.
"""

import sys
from types import ModuleType
from typing import Any

from selfreg.audit.judge import Audit, audit
from selfreg.audit.logs import Log, read_log

__all__ = ["Audit", "Log", "audit", "read_log"]


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Audit:
        """See selfreg.audit.judge.audit."""
        return audit(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
