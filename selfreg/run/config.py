"""Define every config key in one place: its default, its meaning with the unit, and its rule.

A config file under configs/ starts from `default()` and changes the keys that its experiment needs.
absl flags override single keys: `--config.seed=17 --config.optimizer.lr=3e-4`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from selfreg.algorithms.parts.keys import (
    ABOVE_ZERO,
    ANYTHING,
    BELOW_ONE,
    BETWEEN,
    Key,
    Open,
    Rule,
    at_least,
    one_of,
)
from selfreg.run.algorithm import defaults, find_algorithm, names, setting_keys
from selfreg.run.conditions import CONDITIONS

ALGORITHM = Rule(
    lambda name: name.endswith(".py") or name in names(),
    "a .py file, or one of " + ", ".join(names()),
)
# The algorithm sets these keys if a config leaves them open.
SETTINGS = {
    f"learn.{name}": Key(Open(type(key.default), "(by algorithm)"), key.meaning, key.rule)
    for name, key in setting_keys().items()
}

KEYS: dict[str, Key] = {
    "name": Key("run", "a word for folders, plots and tables"),
    "seed": Key(7, "of everything random in the chain", at_least(0)),
    "condition": Key("A0", "a named choice of update rule and controls", one_of(*CONDITIONS)),
    "within": Key(
        Open(str, "(by condition)"), "control within a campaign: selfreg/control/within, or a file"
    ),
    "between": Key(
        Open(str, "(by condition)"), "control between them: selfreg/control/between, or a file"
    ),
    "init_checkpoint": Key(
        "",
        "a checkpoint to start from, not model.path's weights: RUN:peak or RUN:CAMPAIGN.STEP",
    ),
    "share_first_campaign_of": Key("", "a run folder whose campaign 0 is taken, not run again"),
    "control_metric": Key(
        "panel_pass_at_1", "what the control reads", one_of("pass_rate", "panel_pass_at_1")
    ),
    "campaigns": Key(3, "in the chain", at_least(1)),
    "campaign_budget_steps": Key(
        20, "updates, 0: measure only; a condition may set later ones'", at_least(0)
    ),
    # Sources: procedural:SPLIT, easy:SPLIT, humaneval, mbpp:PATH, jsonl:PATH, parquet:PATH, and
    # hf:NAME:SPLIT; docs/data.md.
    "problems.train": Key("procedural:train", "source of training problems"),
    "problems.held_out": Key("procedural:main", "source of both panels; '': hold out of train"),
    "problems.categories": Key(
        (), "a training source a campaign instead, the last one stays; (): problems.train for all"
    ),
    "problems.train_count": Key(0, "training problems a source; 0: all there are", at_least(0)),
    "problems.max_broken": Key(
        0, "problems whose own solution fails, and are left out; more are refused", at_least(0)
    ),
    "problems.max_overlap": Key(
        0,
        "of the panels' problems, that also stand in the training set; more are refused; -1: any",
        at_least(-1),
    ),
    "problems.panel_count": Key(96, "problems measured all through a campaign", at_least(2)),
    "problems.report_count": Key(96, "other problems, for campaign ends only", at_least(2)),
    "model.path": Key("tiny", "tiny, smollm2, a .gguf file or a Hugging Face folder"),
    "model.prompt": Key("plain", "prompt style", one_of("plain", "chat", "completion")),
    "model.dtype": Key(
        "float32",
        "what layers compute in; weights are float32",
        one_of("float32", "bfloat16", "float16"),
    ),
    "model.remat": Key(
        "dots",
        "what the backward pass computes again: nothing, whole layers, or all but their products",
        one_of("none", "layer", "dots"),
    ),
    "model.attention": Key(
        "auto",
        "how layers attend; auto: cudnn on an NVIDIA GPU in bfloat16, else plain",
        one_of("auto", "plain", "cudnn"),
    ),
    "model.lora_rank": Key(0, "of LoRA's adapters; 0: train all weights", at_least(0)),
    "model.lora_alpha": Key(32.0, "LoRA adds alpha / rank times its adapters", ABOVE_ZERO),
    "rollout.problems_per_step": Key(1, "problems drawn a step", at_least(1)),
    "rollout.group_size": Key(16, "completions a problem", at_least(1)),
    "rollout.redraws": Key(
        0, "times a step that groups whose rewards are all alike give way to others", at_least(0)
    ),
    "rollout.temperature": Key(0.7, "of the softmax", ABOVE_ZERO),
    "rollout.top_p": Key(1.0, "nucleus; 1: off", Rule(lambda v: 0 < v <= 1, "in (0, 1]")),
    "rollout.top_k": Key(0, "likeliest tokens kept; 0: off", at_least(0)),
    "rollout.max_new_tokens": Key(96, "of a completion", at_least(1)),
    "rollout.num_alter_tokens": Key(0, "alternatives kept a token, with logprobs", at_least(0)),
    "rollout.max_prompt_tokens": Key(512, "a longer prompt is refused at the start", at_least(1)),
    "rollout.max_sequences": Key(384, "decoded at once; more are drawn in turns", at_least(1)),
    "rollout.engine": Key(
        "jax", "draws completions: in this process, or SGLang servers", one_of("jax", "sglang")
    ),
    "rollout.overlap": Key(False, "draw the next step's while updating: one step off-policy"),
    "rollout.max_logprob_difference": Key(
        0.1,
        "nats a token by which sampler and trainer may differ at a campaign's start or resume",
        ABOVE_ZERO,
    ),
    "sglang.urls": Key("", "of running servers, separated by commas; '': see sglang.launch"),
    "sglang.launch": Key(False, "start servers, and stop them with the run"),
    "sglang.servers": Key(1, "how many to start, each with accelerators of its own", at_least(1)),
    "sglang.python": Key("python", "the interpreter that has sglang"),
    "sglang.port": Key(30000, "of the first server that is started; others follow", at_least(1)),
    "sglang.gpus": Key("", "device numbers of each server, as 6,7 or 4,5;6,7; '': those there are"),
    "sglang.tensor_parallel": Key(1, "accelerators that split the model", at_least(1)),
    "sglang.memory_fraction": Key(0.0, "of accelerator memory; 0: SGLang's choice", BELOW_ONE),
    "sglang.options": Key("", "more options of sglang.launch_server"),
    "sglang.environment": Key("", "more variables for the server, as NAME=VALUE NAME=VALUE"),
    "sglang.sync_folder": Key("/dev/shm", "where weights are handed over; all servers see it"),
    "sglang.request_timeout_s": Key(600.0, "for one completion, queueing included", ABOVE_ZERO),
    "sglang.ready_timeout_s": Key(900.0, "for a server to start or to come back", ABOVE_ZERO),
    "sglang.sync_timeout_s": Key(600.0, "for a server to take new weights", ABOVE_ZERO),
    "sglang.refuse_stale": Key(True, "draw again what other weights drew; False: count it only"),
    "sglang.colocated": Key(False, "servers share the trainer's accelerators, in turns"),
    "control.early_stop_drop": Key(0.02, "below the running peak: a decline", at_least(0)),
    "control.early_stop_patience": Key(3, "declines in a row that stop a campaign", at_least(1)),
    "control.false_alarm_rate": Key(
        0.05,
        "of the predictor: stationary campaigns that it may stop",
        Rule(lambda v: 0 < v < 1, "in (0, 1)"),
    ),
    "control.predictor_calibration": Key(
        "tiny", "of that rate: tiny, or a file by selfreg calibrate"
    ),
    "control.guard_alpha": Key(
        0.05,
        "of the guard: most probability of any false alarm in a whole campaign",
        Rule(lambda v: 0 < v < 0.5, "in (0, 0.5)"),
    ),
    "control.guard_margin": Key(0.02, "below the best: no fall yet, to the guard", at_least(0)),
    "control.max_restores": Key(
        Open(int, "(by condition)"),
        "times that a campaign goes back to its peak instead of stopping early",
        at_least(0),
    ),
    "control.restore_lr_factor": Key(0.5, "times the learning rate, at each restore", ABOVE_ZERO),
    "control.restore_kl_coef": Key(0.0, "least weight of the KL penalty then", at_least(0)),
    "control.match_updates_of": Key("", "a finished run, whose numbers of updates EQ makes"),
    # CARE v1 and v2: selfreg/control/between/care_v2.py.
    "control.revision_margin": Key(
        0.2,
        "by how much end / peak may miss its prediction before CARE v1 and v2 revise",
        ABOVE_ZERO,
    ),
    "control.tau_step": Key(
        0.1, "by how much a revision of CARE v2 moves its threshold", ABOVE_ZERO
    ),
    # Full CARE: selfreg/control/between/care.py. Greek letters are those of the paper, appendix D.
    "control.proposer": Key(
        "rules", "who proposes strategies", one_of("rules", "random", "pareto", "llm")
    ),
    "control.candidates": Key(3, "strategies that random and pareto propose at once", at_least(1)),
    "control.protected": Key((), "capabilities that must not fall; (): main and all others"),
    "control.epsilon": Key(0.05, "a fall of a capability by more is a regression", at_least(0)),
    "control.alpha": Key(0.4, "most regression probability that passes, at first", BETWEEN),
    "control.alpha_decay": Key(0.1, "lambda: of alpha, a regression in a surprise", at_least(0)),
    "control.beta": Key(0.95, "quantile of chi-square above which an effect surprises", BETWEEN),
    "control.gamma_low": Key(0.3, "confidence above which a strategy may be adapted", BELOW_ONE),
    "control.gamma_high": Key(0.6, "confidence above which it may be reused", BELOW_ONE),
    "control.context_distance": Key(
        0.1, "between vectors of capabilities, above which a strategy is adapted", at_least(0)
    ),
    "control.cone_degrees": Key(
        30.0,
        "half the opening of the cone of contexts that a regression rules out",
        Rule(lambda v: 0 < v < 90, "in (0, 90)"),
    ),
    "control.noise_sd": Key(0.05, "of an observed change of a capability", ABOVE_ZERO),
    "control.prior_sd": Key(0.1, "of each weight of a strategy's effect, beforehand", ABOVE_ZERO),
    "control.surprise_factor": Key(
        1.0, "times its mean squared error: what a surprise adds to its noise variance", at_least(0)
    ),
    "control.llm_url": Key("", "of an OpenAI-compatible endpoint, as http://127.0.0.1:30000/v1"),
    "control.llm_model": Key("default", "the model to ask there"),
    "control.llm_timeout_s": Key(120.0, "for an answer; later: none", ABOVE_ZERO),
    "control.llm_max_tokens": Key(512, "of an answer", at_least(1)),
    "control.memory": Key("", "another chain's memory.json to begin with"),
    "grading.workers": Key(0, "processes; 0: one a core", at_least(0)),
    "grading.time_limit_scale": Key(3.0, "times a problem's CPU limit; the paper's 3", ABOVE_ZERO),
    "grading.max_retries": Key(2, "of a program whose worker broke", at_least(0)),
    "grading.max_unjudged_share": Key(
        0.1, "of a call's completions, without a verdict; more end the run; one never", BELOW_ONE
    ),
    "grading.validate": Key(True, "run every problem's own solution before the first step"),
    "grading.code_block": Key(
        "last",
        "of an answer that is graded (docs/data.md); first: as in older runs",
        one_of("last", "first"),
    ),
    "grading.isolation": Key(
        "auto", "what keeps programs in", one_of("auto", "ns", "userns", "landlock")
    ),
    "grading.allow_weak": Key(False, "go on where no isolation works: only for programs you trust"),
    "grading.modules": Key(
        (), "that programs and tests may import beside the standard library, as ('numpy',)"
    ),
    "grading.cpp_options": Key("-std=c++17 -O1", "of the C++ compiler"),
    "learn.algorithm": Key(
        Open(str, "(by condition)"), "update rule: see the end of this list, or a file", ALGORITHM
    ),
    "learn.options": Key((), "settings that such a file adds, as ('tau=0.5',)"),
    "learn.reward_coding": Key("zero_one", "{0,1} or {-1,+1}", one_of("zero_one", "minus_one_one")),
    **SETTINGS,
    "learn.drop_without_signal": Key(
        False, "leave groups whose rewards are all alike out of the update; none left: no update"
    ),
    "learn.overlong_tokens": Key(
        0, "last tokens of rollout.max_new_tokens in which the reward falls by up to 1", at_least(0)
    ),
    "learn.mask_truncated": Key(
        False, "learn nothing from completions cut off at rollout.max_new_tokens"
    ),
    "learn.updates_per_batch": Key(
        1, "steps that learn from one draw of completions, an update each", at_least(1)
    ),
    "learn.entropy_coef": Key(0.0, "weight of the entropy bonus", at_least(0)),
    "learn.entropy_target": Key(
        0.0,
        "nats a token at which the bonus's weight holds the entropy; 0: it is constant",
        at_least(0),
    ),
    "learn.entropy_step": Key(0.005, "by which that weight moves an update", ABOVE_ZERO),
    "learn.kl_target": Key(
        0.0,
        "nats a token at which the KL penalty's weight holds k3_kl; 0: it is constant",
        at_least(0),
    ),
    "learn.kl_coef": Key(0.0, "weight of the k3 KL penalty", at_least(0)),
    "learn.kl_schedule": Key(
        (),
        "the weight by campaign, the last one stays; (): learn.kl_coef",
        Rule(lambda v: all(isinstance(x, int | float) and x >= 0 for x in v), "numbers from 0"),
    ),
    "learn.kl_reference": Key(
        "campaign_start",
        "the policy that the KL penalty and DPO hold on to",
        one_of("campaign_start", "base"),
    ),
    "learn.reference_every_steps": Key(
        0,
        "after so many steps of a campaign the policy itself becomes the reference; 0: never",
        at_least(0),
    ),
    "learn.ewc_coef": Key(
        0.0, "weight of the diagonal-Fisher penalty around the campaign's start", at_least(0)
    ),
    # Completions are packed into rows: selfreg/policy/learn/packing.py.
    "learn.row_tokens": Key((), "widths of rows; (): 2/3, 1 and 3/2 of rollout.max_new_tokens"),
    "learn.microbatch_rows": Key(
        0, "rows whose gradients are computed at once; 0: one a device, two if short", at_least(0)
    ),
    "learn.logprob_chunk_tokens": Key(1024, "tokens whose logits exist at once", at_least(1)),
    "optimizer.lr": Key(1e-6, "peak learning rate of AdamW", ABOVE_ZERO),
    "optimizer.b1": Key(0.9, "decay of the first moment", BELOW_ONE),
    "optimizer.b2": Key(0.999, "decay of the second moment", BELOW_ONE),
    "optimizer.eps": Key(
        1e-8,
        "added to the root of the second moment; large (1e-3): small gradients take small steps",
        ABOVE_ZERO,
    ),
    "optimizer.weight_decay": Key(0.0, "of matrices", at_least(0)),
    "optimizer.clip_norm": Key(1.0, "most the gradient's norm may be; 0: off", at_least(0)),
    "optimizer.max_update_ratio": Key(
        0.0, "most a matrix may change, as a fraction of its norm; 0: any", at_least(0)
    ),
    "optimizer.skip_norm_factor": Key(
        0.0,
        "skip an update whose gradient's norm is above so many times the median before; 0: none",
        Rule(lambda v: v == 0 or v > 1, "0, or above 1"),
    ),
    "optimizer.average_decay": Key(
        0.0, "of the mean of weights over updates that is measured and kept; 0: the last", BELOW_ONE
    ),
    "optimizer.warmup_steps": Key(0, "of a linear warm-up in each campaign", at_least(0)),
    "optimizer.state_dtype": Key(
        "float32",
        "what moments are stored in: 8, 4 or 2.1 bytes a weight",
        one_of("float32", "bfloat16", "int8"),
    ),
    "optimizer.reset_each_campaign": Key(True, "start each campaign's moments at zero"),
    "evaluation.every_steps": Key(5, "between panels; start and end always", at_least(1)),
    "evaluation.panel_samples": Key(4, "completions a panel problem", at_least(1)),
    "evaluation.report_samples": Key(8, "completions a report problem", at_least(1)),
    "evaluation.capabilities": Key(
        (), "more panels for campaign ends, as ('hard=procedural:hard', 'cpp=procedural:cpp')"
    ),
    "checkpoint.every_steps": Key(10, "besides new peaks, start and end", at_least(1)),
    "checkpoint.keep_every_steps": Key(
        0, "are kept too; 0: start, peak and latest alone", at_least(0)
    ),
    "mesh.data": Key(
        -1,
        "devices that copy the weights; -1: all the others",
        Rule(lambda v: v == -1 or v >= 1, "-1 or at least 1"),
    ),
    "mesh.fsdp": Key(1, "devices that split weights and batch", at_least(1)),
    "mesh.tensor": Key(1, "devices that split matrices", at_least(1)),
}


def default() -> ConfigDict:
    """Make a config that holds every key."""
    config = ConfigDict()
    for name, key in KEYS.items():
        section, _, last = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        # Each key needs its own placeholder, because a shared one would tie two values together.
        is_open = isinstance(key.default, Open)
        value = config_dict.placeholder(key.default.kind) if is_open else key.default
        (config[section] if section else config)[last] = value
    return config


def completed(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Add the keys that a stored config lacks, with values that keep the behaviour of its version.

    Args:
      flat: The config of a run folder, with dotted keys, as JSON data. An older version of selfreg
        may have written it.

    Returns:
      JSON data, with lists instead of tuples.
    """
    neutral = {name: key.default for name, key in KEYS.items()}
    neutral |= {f"learn.{name}": key.default for name, key in setting_keys().items()}
    # These values reproduce what older versions did.
    neutral |= {"grading.code_block": "first", "problems.max_overlap": -1}
    # Open keys need no value, because every version has written the keys that a condition decides.
    known = {name: value for name, value in neutral.items() if not isinstance(value, Open)}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in known.items()} | {**flat}


def describe(word: str = "") -> str:
    """Describe the keys with their defaults and meanings, and then the algorithms, for --help.

    Args:
      word: Keep only entries that contain this word, in any case; "" keeps all.
    """
    sections: dict[str, list[str]] = {}
    for name, key in KEYS.items():
        value = key.default.words if isinstance(key.default, Open) else key.default
        allowed = f" ({key.rule.words})" if key.rule.words != ANYTHING.words else ""
        if word.lower() in f"{name}={value} {key.meaning}{allowed}".lower():
            section = name.rpartition(".")[0] or "the chain"
            entry = f"  --config.{name}={value}\n      {key.meaning}{allowed}"
            sections.setdefault(section, []).append(entry)
    algorithms = [a for a in map(_describe_algorithm, names()) if word.lower() in a.lower()]
    parts = ["\n".join([f"[{section}]", *entries]) for section, entries in sections.items()]
    if parts:
        parts.insert(0, "Keys of a config, with their defaults:")
    if algorithms:
        title = "Algorithms, and what each sets of what the config leaves open:"
        parts.append("\n".join([title, *algorithms]))
    return "\n\n".join(parts)


def _describe_algorithm(name: str) -> str:
    algorithm = find_algorithm(name)
    unlike = [
        f"{key}={value}"
        for key, value in defaults(algorithm).items()
        if value != setting_keys()[key].default
    ]
    settings = f"\n      {', '.join(unlike)}" if unlike else ""
    return f"  {name}: {algorithm.paper}{settings}"
