"""Scripted campaigns for the controls between campaigns, and the decisions kept as golden.

To keep new ones, after reading what changed:
    python -m tests.control.between_scripts > tests/control/between_golden.json
"""

import json

from selfreg.control.find import find_between
from selfreg.control.protocol import Base
from selfreg.run.config import default
from selfreg.run.records import StepRecord, Trace, to_json

# One value a step. r = end / peak: 0.2, 1, 1, 0.05 / 0.54 and 0.4.
CURVES = {
    "rise_collapse": [0.2, 0.5, 0.4, 0.1],
    "flat_noise": [0.1] * 5 + [0.3] + [0.2] * 9 + [0.3],
    "steady_rise": [0.01 * step for step in range(21)],
    "late_cliff": [0.2 + 0.02 * step for step in range(18)] + [0.2, 0.05],
    "half_lost": [0.3, 0.5, 0.2],
}
SCRIPT = (*CURVES, "half_lost", "steady_rise", "late_cliff")
CPP = [0.30, 0.35, 0.40, 0.42, 0.20, 0.25, 0.33, 0.31, 0.28, 0.3, 0.3]  # at each campaign's start
GOLDEN = ("memory", "gate", "care_v2", "care_kdim", "gate_v1", "care_v1", "best_checkpoint",
          "matched", "random_search", "llm_search", "morbo_proxy", "care", "naive",
          "early_stop")  # fmt: skip


def options(**changes):
    """The config's section `control`, with what the controls that need something need."""
    needed = {"llm_url": "http://127.0.0.1:1/v1"}
    return {**default().control.to_dict(), **needed, **changes}


def base(memory=None, capabilities=("cpp",), seed=7, **changes):
    return Base(
        budget_steps=20, lr=1e-6, temperature=0.7, group_size=16, seed=seed,
        capabilities=capabilities, memory=memory or {}, options=options(**changes),
        match_updates=(20, 8, 11),
    )  # fmt: skip


def trace(values, campaign=0, **capabilities):
    """A campaign with one value a step; each capability as (start, peak)."""
    records = tuple(
        StepRecord(campaign, step, {"pass_rate": value}) for step, value in enumerate(values)
    )
    places = {
        place: {name: pair[i] for name, pair in capabilities.items()}
        for i, place in enumerate(("start", "peak"))
    }
    return Trace(campaign, "pass_rate", records, places)


def run(name, script=SCRIPT, given=None, cpp=CPP):
    """The states of a control: before the first campaign, and after each."""
    between = find_between(name)
    states = [between.start(given or base())]
    for campaign, curve in enumerate(script):
        finished = trace(CURVES[curve], campaign, cpp=cpp[campaign : campaign + 2])
        states.append(between.observe(states[-1], finished))
    return states


def plans(name, script=SCRIPT, given=None, cpp=CPP):
    """The plans made before each campaign, and after the last."""
    return [find_between(name).plan(state) for state in run(name, script, given, cpp)]


def decisions(name):
    """Plans as JSON data, without the words."""
    rows = [to_json(plan) for plan in plans(name)]
    return [
        {key: value for key, value in row.items() if key != "reason" and value is not None}
        for row in rows
    ]


if __name__ == "__main__":
    lines = {
        name: "[\n  " + ",\n  ".join(map(json.dumps, decisions(name))) + "\n ]" for name in GOLDEN
    }
    print("{\n" + ",\n".join(f' "{name}": {rows}' for name, rows in lines.items()) + "\n}")
