"""The job that benchmarks.accelerator measures and compiles: one config for both."""

from typing import Any, NamedTuple

from selfreg.cli.plan.job import Job, make_job
from selfreg.cli.plan.memory import of_programs
from selfreg.cli.plan.weights import Split
from selfreg.policy.models.decoder import DecoderConfig
from selfreg.run.config import default
from selfreg.run.validate import resolve

ROWS, PROMPT, COMPLETION = 16, 256, 768  # 16 x 1024 tokens
AT_ONCE = 4
DECODED_ROWS = 64
# Settings that reduce memory, from the fastest to the smallest.
KEPT: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"optimizer.state_dtype": "bfloat16"},
    "int8": {"optimizer.state_dtype": "int8"},
    "LoRA 32": {"model.lora_rank": 32},
}


class Chosen(NamedTuple):
    """A job that fits, and a description of its setting."""

    words: str
    config: Any
    job: Job


def first_that_fits(decoder: DecoderConfig, room: float) -> Chosen | None:
    """Return the job of the first setting in KEPT with which each program is planned to fit.

    Args:
      decoder: The shape of the policy.
      room: The number of bytes that JAX may use.

    Returns:
      The job, or None if no setting fits.
    """
    for words, changes in KEPT.items():
        config = default()
        config.update_from_flattened_dict(
            {
                "model.remat": "layer", "model.dtype": "bfloat16", "rollout.group_size": ROWS,
                "rollout.max_prompt_tokens": PROMPT, "rollout.max_new_tokens": COMPLETION,
                "rollout.max_sequences": DECODED_ROWS, "learn.microbatch_rows": AT_ONCE,
                "learn.row_tokens": (COMPLETION,), "learn.logprob_chunk_tokens": 1024,
                "problems.panel_count": 2, "problems.report_count": 2,
                "evaluation.panel_samples": DECODED_ROWS,
                "evaluation.report_samples": DECODED_ROWS,
            } | changes
        )  # fmt: skip
        resolved = resolve(config)
        job = make_job(resolved, decoder, gpu=True)
        if max(of_programs(job, Split(1, 1, 1)).values()) <= room:
            return Chosen(words, resolved, job)
    return None
