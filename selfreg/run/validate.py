"""Checks a config and fills it in; refuses unknown keys and impossible values at once."""

import difflib
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from selfreg.algorithms.parts.keys import Rule, at_least
from selfreg.run.algorithm import defaults, find_algorithm, rules
from selfreg.run.conditions import CONDITIONS, DEFAULTS
from selfreg.run.config import KEYS


def check_names(names: Iterable[str]) -> None:
    """Refuse keys that no config has.

    Args:
      names: Dotted keys such as "optimizer.lr", or sections.

    Raises:
      ValueError: A key does not exist; the message suggests others.
    """
    known = [*KEYS, *{name.rpartition(".")[0] for name in KEYS}]
    for name in names:
        if name not in known:
            last = name.rpartition(".")[2]
            meant = [k for k in KEYS if k.rpartition(".")[2] == last]
            meant += difflib.get_close_matches(name, KEYS, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(dict.fromkeys(meant))}?" if meant else ""
            raise ValueError(f"there is no key config.{name}{hint} (--help lists all)")


def resolve(config: ConfigDict) -> FrozenConfigDict:
    """Check every value, fill in the keys that are left open, and freeze the config.

    Args:
      config: The config of a config file and the command line.

    Returns:
      The config of the run, frozen.

    Raises:
      ValueError: A value is impossible; the message names the key, the value and the rule.
    """
    # A plain copy would share its open keys, and filling them in would change the caller's config.
    config = config.copy_and_resolve_references()
    _check(config, {name: key.rule for name, key in KEYS.items()})
    _fill_open(config, {**DEFAULTS, **CONDITIONS[config.condition]})
    algorithm = find_algorithm(config.learn.algorithm)
    _fill_open(config, {f"learn.{name}": value for name, value in defaults(algorithm).items()})
    _check(config, rules(algorithm, config.learn))
    _check(config, _rules_across_keys(config))
    return FrozenConfigDict(config)


def skips_updates(config: Any) -> bool:
    """Return whether a run can skip an update: by the gradient's norm, or without a token left."""
    drops = config.learn.drop_without_signal or config.learn.mask_truncated
    return drops or config.optimizer.skip_norm_factor > 0


def _check(config: ConfigDict, rules: dict[str, Rule]) -> None:
    """Raise ValueError for the first key whose value breaks its rule; open ones may be anything."""
    for name, rule in rules.items():
        section, _, last = name.rpartition(".")
        value = (config[section] if section else config)[last]
        if value is not None and not rule.holds(value):
            raise ValueError(f"config.{name}={value!r} is not possible: must be {rule.words}")


def _fill_open(config: ConfigDict, decided: dict[str, Any]) -> None:
    """Set these keys where the config leaves them open."""
    for name, value in decided.items():
        section, _, last = name.rpartition(".")
        holder = config[section] if section else config
        if holder[last] is None:
            holder[last] = value


def _rules_across_keys(config: ConfigDict) -> dict[str, Rule]:
    """Return the rules in which one key limits another."""
    group, new_tokens = config.rollout.group_size, config.rollout.max_new_tokens

    def holds_every_completion(widths: tuple[int, ...]) -> bool:
        ascending = all(a < b for a, b in pairwise((0, *widths)))
        return not widths or (ascending and widths[-1] >= new_tokens)

    sglang = config.sglang
    servers = bool(sglang.urls) + sglang.launch
    learn = config.learn
    in_draws = Rule(
        lambda steps: steps % learn.updates_per_batch == 0,
        f"a multiple of learn.updates_per_batch={learn.updates_per_batch}: a run resumes only "
        "where completions are drawn",
    )
    return {
        "rollout.engine": Rule(
            lambda engine: servers == (engine == "sglang"),
            "sglang with either sglang.urls or sglang.launch=True set, or jax with neither",
        ),
        "rollout.overlap": Rule(
            lambda overlap: not (overlap and (sglang.colocated or learn.updates_per_batch > 1)),
            "False where sglang.colocated=True: servers and trainer take turns; and where "
            "learn.updates_per_batch is above 1",
        ),
        "sglang.gpus": Rule(
            lambda gpus: not gpus or len(gpus.split(";")) == sglang.servers,
            f"'' or one list for each of sglang.servers={sglang.servers}, separated by semicolons",
        ),
        "campaign_budget_steps": Rule(
            lambda steps: steps > 0 or config.control_metric == "panel_pass_at_1",
            "at least 1 unless control_metric='panel_pass_at_1': no update, no samples",
        ),
        "learn.kl_target": Rule(
            lambda target: target == 0 or any(learn.kl_schedule or (learn.kl_coef,)),
            "0 unless learn.kl_coef or learn.kl_schedule gives the weight to begin with",
        ),
        "evaluation.every_steps": in_draws,
        "checkpoint.every_steps": in_draws,
        "rollout.max_sequences": at_least(group),
        "learn.overlong_tokens": Rule(
            lambda tokens: tokens <= new_tokens, f"at most rollout.max_new_tokens={new_tokens}"
        ),
        "learn.row_tokens": Rule(
            holds_every_completion,
            f"ascending widths above 0, the last at least rollout.max_new_tokens={new_tokens}",
        ),
    }
