"""Settings of algorithms: frozen dataclasses whose fields are keys of config.learn."""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from selfreg.algorithms.parts.keys import ANYTHING, BELOW_ONE, Key, Rule, at_least, one_of

ABOVE_ONE_OR_OFF = Rule(lambda value: value == 0 or value > 1, "0, or above 1")


def setting(default: Any, meaning: str, rule: Rule = ANYTHING) -> Any:
    """Declare a field of an algorithm's settings.

    Args:
      default: The value at which the setting changes nothing.
      meaning: The description in --help, with the unit.
      rule: The allowed values.
    """
    return field(default=default, metadata={"meaning": meaning, "rule": rule})


def keys_of(settings: Any) -> dict[str, Key]:
    """Return the fields of a settings dataclass, or of an instance, as keys of config.learn."""
    return {own.name: _key(own) for own in fields(settings)}


def _key(own: "Field[Any]") -> Key:
    if own.default is MISSING:
        raise ValueError(f"setting {own.name} has no default: write {own.name}: TYPE = DEFAULT")
    meaning = own.metadata.get("meaning", "a setting of this algorithm")
    return Key(own.default, meaning, own.metadata.get("rule", ANYTHING))


@dataclass(frozen=True)
class Settings:
    """The settings of every policy-gradient algorithm. The defaults give REINFORCE."""

    use_score_centering: bool = setting(False, "subtract the group's mean reward")
    use_leave_one_out: bool = setting(False, "leave the completion's own reward out of that mean")
    use_std_normalization: bool = setting(False, "divide by the group's standard deviation")
    use_importance_sampling_ratio: bool = setting(False, "weight tokens by trainer / sampler")
    ratio_level: str = setting(
        "token",
        "one ratio per token, or the geometric mean over a completion",
        one_of("token", "sequence"),
    )
    importance_ratio_cap: float = setting(
        0.0, "truncate the ratio at this value; 0: no limit", at_least(0)
    )
    clip_low: float = setting(
        0.0, "clip the ratio this far below 1 (PPO's clip); 0: no limit", BELOW_ONE
    )
    clip_high: float = setting(0.0, "clip the ratio this far above 1; 0: no limit", at_least(0))
    dual_clip: float = setting(
        0.0, "limit of the ratio where the advantage is negative; 0: no limit", ABOVE_ONE_OR_OFF
    )
    mask_low: float = setting(
        0.0, "ignore tokens whose trainer / sampler is below this; 0: no limit", BELOW_ONE
    )
    mask_high: float = setting(
        0.0, "ignore tokens whose trainer / sampler is above this; 0: no limit", ABOVE_ONE_OR_OFF
    )
    mask_level: str = setting(
        "token",
        "ratio to mask by: each token's, or its completion's product or geometric mean",
        one_of("token", "sequence", "geometric"),
    )
    negative_weight: float = setting(1.0, "factor on negative advantages", at_least(0))
    token_aggregation: str = setting(
        "token_mean",
        "weights of tokens, defined in selfreg/algorithms/parts/advantages.py",
        one_of("token_mean", "sequence_mean", "constant_length", "sum"),
    )
