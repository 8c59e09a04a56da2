"""Turn a config file and a command line into chains to run: folders, commands, dependencies."""

import importlib.util
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import FrozenConfigDict, config_flags

from selfreg.cli.command import prepare
from selfreg.run import address, rundir, shipped
from selfreg.run.runlog import check_same_config
from selfreg.run.standing import State, read_standing
from selfreg.run.validate import check_names, resolve
from selfreg.run.wave import Chain

_IDENTITY = ("name", "condition", "seed")


@dataclass(frozen=True, slots=True)
class Job:
    """One chain to run.

    Attributes:
      chain: The chain's description.
      folder: Its run folder.
      arguments: Its arguments of selfreg.main.
      config: The resolved config that the arguments give.
      needs_first_campaign: The run folder whose first campaign must end before this chain begins.
      needs: The run folder that must finish before this chain begins.
    """

    chain: Chain
    folder: Path
    arguments: tuple[str, ...]
    config: FrozenConfigDict
    needs_first_campaign: Path | None = None
    needs: Path | None = None

    @property
    def source(self) -> Path | None:
        """The run folder that the chain waits for, or None."""
        return self.needs_first_campaign or self.needs

    @property
    def is_ready(self) -> bool:
        """Whether the results that it needs from another run exist."""
        if self.needs_first_campaign:
            return bool(rundir.read_lines(self.needs_first_campaign / rundir.CAMPAIGNS))
        return self.needs is None or read_standing(self.needs).state is State.FINISHED


def make_jobs(
    config: str, sweeps: Sequence[str], settings: Sequence[str], runs: Path
) -> tuple[Job, ...]:
    """Return every chain of a config file, resolved and checked against existing run folders.

    Args:
      config: FILE.py or FILE.py:VARIANT, or a shipped config as NAME or NAME:VARIANT.
      sweeps: Each is KEY=VALUE,VALUE,... Their product over the config replaces the file's own
        sweep().
      settings: Each is --config.KEY=VALUE, for all chains.
      runs: The folder of all runs.

    Raises:
      ValueError: The file, the variant or a key does not exist, a value is not allowed, or a run
        folder holds another config.
    """
    name, _, variant = config.partition(":")
    set_keys = [setting.partition("=")[0].removeprefix("--config.") for setting in settings]
    check_names(set_keys)
    fixed = sorted(set(set_keys) & set(_IDENTITY))
    if fixed:
        raise ValueError(
            f"--config.{fixed[0]} identifies chains, so it cannot be the same for all: use "
            f"--sweep={fixed[0]}=VALUE"
        )
    module = _load(shipped.config_file(config).partition(":")[0])
    if sweeps or not hasattr(module, "sweep"):
        base = _resolved([f"--config={config}"])
        chains = tuple(_product(base, variant, sweeps))
    else:
        chains = module.sweep(*([variant] if variant else []))
    jobs = tuple(_job(chain, name, settings, runs) for chain in chains)
    for job in jobs:
        check_same_config(job.folder, json.loads(json.dumps(job.config.to_dict())))
    return jobs


def _load(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config={file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _product(base: FrozenConfigDict, variant: str, sweeps: Sequence[str]) -> Iterable[Chain]:
    """Yield a chain for every combination of the swept keys' values."""
    keys, values = [], []
    for sweep in sweeps:
        key, equals, words = sweep.partition("=")
        if not equals or not words:
            raise ValueError(f"--sweep={sweep} is not KEY=VALUE,VALUE")
        check_names([key])
        keys.append(key)
        values.append(_split(words))
    for chosen in itertools.product(*values):
        swept = dict(zip(keys, chosen, strict=True))
        others = {key: value for key, value in swept.items() if key not in _IDENTITY}
        name = "-".join([swept.get("name", base.name), *(f"{k}={v}" for k, v in others.items())])
        seed = swept.get("seed", str(base.seed))
        if not seed.isdecimal():
            raise ValueError(f"--sweep=seed={seed}: a seed is a whole number, at least 0")
        condition = swept.get("condition", base.condition)
        yield Chain(name.replace("/", "_"), condition, int(seed), variant, others)


def _split(words: str) -> list[str]:
    """Split at commas outside parentheses."""
    parts, depth = [""], 0
    for letter in words:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _job(chain: Chain, name: str, settings: Sequence[str], runs: Path) -> Job:
    set_by_chain = {
        "name": chain.name, "condition": chain.condition, "seed": chain.seed, **chain.changes,
    }  # fmt: skip
    source = str(address.parse(chain.starts_from).run) if chain.starts_from else ""
    if chain.shares:
        set_by_chain["share_first_campaign_of"] = runs / chain.shares
    if chain.matches:
        set_by_chain["control.match_updates_of"] = runs / chain.matches
    if chain.starts_from:
        set_by_chain["init_checkpoint"] = f"{runs / chain.starts_from}"
    arguments = (
        f"--config={name}:{chain.variant}" if chain.variant else f"--config={name}",
        *(f"--config.{key}={value}" for key, value in set_by_chain.items()),
        *settings,
    )
    folder = runs / chain.place
    return Job(
        chain,
        folder,
        (*arguments, f"--workdir={folder}"),
        _resolved(arguments),
        runs / chain.shares if chain.shares else None,
        runs / (source or chain.matches) if source or chain.matches else None,
    )


def _resolved(arguments: Sequence[str]) -> FrozenConfigDict:
    """Return the config that selfreg.main makes from these arguments.

    Raises:
      ValueError: A value is not allowed.
    """
    values = flags.FlagValues()
    # Without sys_argv, ml_collections would set the keys of this process's own command line.
    words = prepare(["selfreg.main", *arguments])
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=True, sys_argv=words
    )
    try:
        values(words)
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        # ml_collections puts a config file's whole traceback into its message.
        raise ValueError(str(error).strip().splitlines()[-1]) from None
    config: Any = holder.value
    return resolve(config)
