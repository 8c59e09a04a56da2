"""Copy opt-in modules beside the standard library that programs and tests may import.

The files are copied into the pool's folder. The jail shows only that copy of the modules installed
here, and nothing can write to it.
"""

import importlib.metadata as metadata
import os
import re
import shutil
import stat
from collections.abc import Sequence

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def gather(names: Sequence[str], folder: str) -> None:
    """Copy the distributions of modules, and those that they require, into a folder.

    Args:
      names: Top-level modules, such as "numpy".
      folder: The folder to create.

    Raises:
      ValueError: A module is not installed here.
    """
    os.mkdir(folder)
    os.chmod(folder, 0o755)  # whatever the umask: programs may run as another user
    known = metadata.packages_distributions()
    todo = []
    for name in names:
        if name not in known:
            raise ValueError(f"grading.modules: {name!r} is not installed: pip install it")
        todo += known[name]
    done: set[str] = set()
    while todo:
        name = todo.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # needed only on another platform or version of Python
        if distribution.metadata["Name"] in done:
            continue
        done.add(distribution.metadata["Name"])
        _copy(distribution, folder)
        for required in distribution.requires or ():
            if "extra ==" not in required and (match := _NAME.match(required)):
                todo.append(match[0])


def _copy(distribution: metadata.Distribution, folder: str) -> None:
    for file in distribution.files or ():
        source = str(file.locate())
        if file.parts[0] == ".." or "tests" in file.parts or not os.path.isfile(source):
            continue
        target = os.path.join(folder, *file.parts)
        parent = folder
        for part in file.parts[:-1]:
            parent = os.path.join(parent, part)
            if not os.path.isdir(parent):
                os.mkdir(parent)
                os.chmod(parent, 0o755)
        shutil.copyfile(source, target)
        os.chmod(target, stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
