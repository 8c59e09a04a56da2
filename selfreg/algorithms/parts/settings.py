"""Settings of algorithms: frozen dataclasses whose fields are keys of config.learn."""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from selfreg.algorithms.parts.keys import ANYTHING, BELOW_ONE, Key, Rule, at_least, one_of

ABOVE_ONE_OR_OFF = Rule(lambda value: value == 0 or value > 1, "0, or above 1")


def setting(default: Any, meaning: str, rule: Rule = ANYTHING) -> Any:
    """A field of an algorithm's settings.

    Args:
      default: The value at which the setting changes nothing.
      meaning: For --help, with its unit.
      rule: What it may be.
    """
    return field(default=default, metadata={"meaning": meaning, "rule": rule})


def keys_of(settings: Any) -> dict[str, Key]:
    """The fields of a dataclass of settings, or of an instance, as keys of config.learn."""
    return {own.name: _key(own) for own in fields(settings)}


def _key(own: "Field[Any]") -> Key:
    if own.default is MISSING:
        raise ValueError(f"setting {own.name} has no default: write {own.name}: TYPE = DEFAULT")
    meaning = own.metadata.get("meaning", "a setting of this algorithm")
    return Key(own.default, meaning, own.metadata.get("rule", ANYTHING))


@dataclass(frozen=True)
class Settings:
    """What every policy-gradient algorithm reads. At these defaults it is REINFORCE."""

    use_score_centering: bool = setting(False, "subtract the group's mean reward")
    use_leave_one_out: bool = setting(False, "of that mean leave out the completion's own reward")
    use_std_normalization: bool = setting(False, "divide by the group's spread")
    use_importance_sampling_ratio: bool = setting(False, "weight tokens by trainer / sampler")
    ratio_level: str = setting(
        "token",
        "a ratio each token, or the geometric mean of a completion's",
        one_of("token", "sequence"),
    )
    importance_ratio_cap: float = setting(0.0, "truncate the ratio there; 0: not", at_least(0))
    clip_low: float = setting(
        0.0, "how far the ratio counts below 1 (PPO's clip); 0: all", BELOW_ONE
    )
    clip_high: float = setting(0.0, "ditto, above 1; 0: all", at_least(0))
    dual_clip: float = setting(
        0.0, "most that a ratio counts where the advantage is negative; 0: any", ABOVE_ONE_OR_OFF
    )
    mask_low: float = setting(
        0.0, "trainer / sampler below which nothing is learned; 0: any", BELOW_ONE
    )
    mask_high: float = setting(0.0, "ditto, above; 0: any", ABOVE_ONE_OR_OFF)
    mask_level: str = setting(
        "token",
        "what is masked: tokens by their ratio, or completions by its product or geometric mean",
        one_of("token", "sequence", "geometric"),
    )
    negative_weight: float = setting(1.0, "times advantages below 0", at_least(0))
    token_aggregation: str = setting(
        "token_mean",
        "how tokens are weighed: selfreg/algorithms/parts/advantages.py",
        one_of("token_mean", "sequence_mean", "constant_length", "sum"),
    )
