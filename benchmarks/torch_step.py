"""The peers' train steps: a plain step in torch, and the step of TRL's GRPO trainer."""

import importlib.util
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.batch import LR, TEMPERATURE
from selfreg.algorithms.parts.batch import Batch


def torch_update(model: torch.nn.Module, batch: Batch, dtype: str) -> Callable[[], None]:
    """Return a function that makes one torch update: REINFORCE, gradient clipping and Adam.

    Every row contains its whole prompt, as in most trainers. Weights are float32. With bfloat16,
    layers compute under autocast.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    tokens, answers = _tensors(batch)
    gain, width = torch.tensor(batch.advantages)[:, None], answers.shape[1]

    def update() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(tokens, logits_to_keep=width + 1).logits
        logits = logits[:, :-1].float() / TEMPERATURE
        logprobs = torch.log_softmax(logits, -1).gather(-1, answers[..., None])[..., 0]
        loss = -(gain * logprobs).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return update


def has_trl() -> bool:
    """Return whether TRL is installed. The project does not require it."""
    return importlib.util.find_spec("trl") is not None


def trl_update(
    model: torch.nn.Module, batch: Batch, dtype: str, tokenizer: Any
) -> Callable[[], None]:
    """Return a function that makes one update on TRL's GRPO loss, with gradient clipping and Adam.

    TRL's trainer computes the loss on the same batch.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = len(batch.completion_ids)
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=dtype == "bfloat16", beta=0.0,
        per_device_train_batch_size=rows, num_generations=rows, temperature=TEMPERATURE,
        activation_checkpointing=False, report_to=[], max_completion_length=64,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, args=settings, processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_dict({"prompt": ["x"] * rows}),
    )  # fmt: skip
    tokens, answers = _tensors(batch)
    prompts = tokens[:, : -answers.shape[1]]
    inputs = {
        "prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts),
        "completion_ids": answers, "completion_mask": torch.ones_like(answers),
        "advantages": torch.tensor(batch.advantages),
        "num_items_in_batch": torch.tensor(answers.numel()),
    }  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    trainer.current_gradient_accumulation_steps = 1
    model.train()

    def update() -> None:
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, inputs)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return update


def _tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return whole rows (prompt and completion), and the completions."""
    answers = torch.tensor(batch.completion_ids).long()
    prompts = torch.tensor(batch.prompt_ids).long().expand(len(answers), -1)
    return torch.cat([prompts, answers], 1), answers
