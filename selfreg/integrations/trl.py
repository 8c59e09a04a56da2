"""The guard as a callback for TRL, and for any other trainer built on transformers' Trainer.

    from selfreg.integrations.trl import CollapseGuard

    trainer = GRPOTrainer(..., callbacks=[CollapseGuard()])           # watches TRL's own log
    trainer = GRPOTrainer(..., callbacks=[CollapseGuard(panel)])      # a panel alarms far sooner

An alarm stops training, and the Trainer then loads the best weights. They are stored in
OUTPUT_DIR/collapse_guard/best-STEP, a complete checkpoint that resume_from_checkpoint accepts and
save_total_limit does not count. OUTPUT_DIR/collapse_guard also holds observations.jsonl, from which
the guard of a resumed run continues exactly.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from selfreg import guard
from selfreg.guard import history
from selfreg.guard.words import sentence

FOLDER, OBSERVATIONS, BEST = "collapse_guard", "observations.jsonl", "best-"
CHECKPOINT = "checkpoint-"

# (model, tokenizer) -> the mean reward of each problem, always in the same order.
Panel = Callable[[Any, Any], Sequence[float]]

_log = logging.getLogger(__name__)


class CollapseGuard(TrainerCallback):
    """Callback that stops training when the policy is worse than its best checkpoint.

    The Trainer then loads that checkpoint.

    Attributes:
      decision: The guard's latest decision; None before its first observation.
      alarm: The text of the alarm; "" without an alarm.
    """

    def __init__(
        self,
        panel: Panel | None = None,
        *,
        every_steps: int = 10,
        settings: guard.Settings | None = None,
        reward: str = "reward",
    ):
        """Configure the guard.

        Args:
          panel: Measures the policy on problems that training does not use, the same problems at
            every call: see `panel_of`. None watches only the log.
          every_steps: Steps between looks, and between candidates for the best checkpoint.
          settings: Settings of the guard. `planned` and `planned_steps` are filled in from the run.
          reward: Name of the mean reward in the trainer's log.

        Raises:
          ValueError: The settings do not match the panel, ask for confirmations or restores, or
            every_steps is below 1.
        """
        source = guard.Source.LOG if panel is None else guard.Source.PANEL
        self.settings = settings or guard.Settings(source=source)
        if (panel is None) != (self.settings.source is guard.Source.LOG):
            raise ValueError(
                f"settings.source is {self.settings.source.value!r}, but there is "
                f"{'no panel' if panel is None else 'a panel'}"
            )
        if self.settings.confirm or self.settings.restores:
            raise ValueError(
                "settings.confirm and settings.restores need a loop around the trainer, which a "
                "callback cannot provide: leave them at their defaults"
            )
        if every_steps < 1:
            raise ValueError(f"every_steps={every_steps!r} must be at least 1")
        self.panel, self.every_steps, self.reward = panel, every_steps, reward
        self.decision: guard.Decision | None = None
        self.alarm = ""
        self._state = guard.start(self.settings)
        self._folder = Path()
        self._kept: float | None = None  # moving average at the best candidate so far
        self._keeps = False  # whether the next saved checkpoint is that candidate

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the guard, or restore it from the observations up to the resumed step."""
        if args.load_best_model_at_end and args.metric_for_best_model:
            raise ValueError(
                "load_best_model_at_end=True selects the best model by another rule. Set it to "
                "False: the Trainer loads CollapseGuard's best weights at the end"
            )
        self._folder = Path(args.output_dir) / FOLDER
        self._state = guard.start(self._planned(args, state))
        self._kept, self.decision, self.alarm = None, None, ""
        file = self._folder / OBSERVATIONS
        seen = history.read(file, state.global_step) if state.global_step else []
        if state.is_world_process_zero:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not state.global_step:
                self._drop_best()
            history.write(file, seen)
        for observation in seen:
            self._observe(observation)
            if self._is_candidate(observation):
                self._improves()
        args.load_best_model_at_end = True  # the Trainer can load weights into any wrapped model
        state.best_model_checkpoint = self._best()
        if self.panel is not None and not seen:
            self._look(state, control, kwargs)
            if self._improves() and not (args.deepspeed or args.fsdp):
                self._save_start(state, kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the panel."""
        if self.panel is not None and state.global_step % self.every_steps == 0:
            self._look(state, control, kwargs)
            self._keep(control)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, float] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """Take the mean reward from the trainer's log."""
        if self.settings.source is guard.Source.PANEL or self.reward not in (logs or {}):
            return
        seen = guard.Logged(state.global_step, float((logs or {})[self.reward]))
        steps = self._state.reward_steps
        if len(steps) and seen.step <= steps[-1]:
            return  # the end of training logs the last step again
        self._take(seen, state, control)
        if self._is_candidate(seen):
            self._keep(control)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the checkpoint that was just written, if it is the best."""
        if not self._keeps:
            return
        self._keeps = False
        if state.is_world_process_zero:
            written = Path(args.output_dir) / f"{CHECKPOINT}{state.global_step}"
            kept = self._folder / f"{BEST}{state.global_step}"
            shutil.copytree(written, kept, dirs_exist_ok=True)  # a resumed run may repeat a step
            self._drop_best(kept)
        _wait()
        state.best_model_checkpoint = self._best()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log where the run stands, after the Trainer has loaded the best weights."""
        if self.decision is not None and not self.alarm:
            _log.info(self._words(state.global_step))

    def _planned(self, args: TrainingArguments, state: TrainerState) -> guard.Settings:
        """Return the settings, with open plans filled in from the run."""
        every = max(1, int(state.logging_steps or 1))
        looks, rewards = state.max_steps // self.every_steps + 1, state.max_steps // every
        return replace(
            self.settings,
            planned=self.settings.planned or max(2, looks),
            planned_steps=self.settings.planned_steps or max(2, rewards),
        )

    def _look(self, state: TrainerState, control: TrainerControl, kwargs: dict[str, Any]) -> None:
        assert self.panel is not None
        rates = _from_first(list(self.panel(kwargs["model"], kwargs.get("processing_class"))))
        self._take(guard.Look(state.global_step, rates), state, control)

    def _take(
        self, seen: guard.Look | guard.Logged, state: TrainerState, control: TrainerControl
    ) -> None:
        """Observe, store the observation, and stop training on an alarm."""
        self._observe(seen)
        if state.is_world_process_zero:
            with (self._folder / OBSERVATIONS).open("a") as file:
                file.write(history.line(seen))
        assert self.decision is not None
        if self.decision.verdict is guard.Verdict.ALARM:
            self.alarm = self.alarm or self._words(state.global_step)
            _log.warning(self.alarm)
            control.should_training_stop = True

    def _observe(self, seen: guard.Look | guard.Logged) -> None:
        self._state, self.decision = guard.observe(self._state, seen)

    def _is_candidate(self, seen: guard.Look | guard.Logged) -> bool:
        """Return whether a checkpoint may be kept at this observation."""
        return isinstance(seen, guard.Look) or (
            self.panel is None and seen.step % self.every_steps == 0
        )

    def _improves(self) -> bool:
        """Record the moving average as a candidate, and return whether it is the best so far."""
        average = self._state.average
        if average is None or (self._kept is not None and average < self._kept):
            return False
        self._kept = average
        return True

    def _keep(self, control: TrainerControl) -> None:
        if self._improves():
            self._keeps = control.should_save = True

    def _save_start(self, state: TrainerState, model: Any) -> None:
        """Keep the initial weights, because they may remain the best."""
        if state.is_world_process_zero:
            model.save_pretrained(self._folder / f"{BEST}{state.global_step}")
        _wait()
        state.best_model_checkpoint = self._best()

    def _words(self, step: int) -> str:
        assert self.decision is not None
        return sentence(self.decision, self.settings, step, self._best() or "")

    def _best(self) -> str | None:
        """Return the folder of the best checkpoint; None before one is kept."""
        found = sorted(self._folder.glob(f"{BEST}*"), key=lambda f: int(f.name[len(BEST) :]))
        return str(found[-1]) if found else None

    def _drop_best(self, keep: Path | None = None) -> None:
        for folder in self._folder.glob(f"{BEST}*"):
            if folder != keep:
                shutil.rmtree(folder)


def panel_of(
    prompts: Sequence[Any],
    reward: Callable[..., Sequence[float]],
    *,
    samples: int = 4,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
    **columns: Sequence[Any],
) -> Panel:
    """Make a panel of prompts that a reward function scores, called as TRL's trainers call it.

    Every look samples with the same seed, and does not change the random state of training.

    Args:
      prompts: Strings, or conversations as lists of messages. Training must not use them.
      reward: (prompts=, completions=, **columns) -> one number per completion.
      samples: Completions per prompt.
      max_new_tokens: Maximum length of a completion, in tokens.
      temperature: Sampling temperature; it should equal that of training.
      batch_size: Completions generated at a time.
      seed: Sampling seed.
      columns: Further arguments of the reward function, one value per prompt, such as
        answer=[...].

    Returns:
      (model, tokenizer) -> the mean reward of each prompt.

    Raises:
      ValueError: A column and the prompts differ in length.
    """
    for name, column in columns.items():
        if len(column) != len(prompts):
            raise ValueError(f"{name} has {len(column)} values for {len(prompts)} prompts")

    def measure(model: Any, tokenizer: Any) -> list[float]:
        every = [prompt for prompt in prompts for _ in range(samples)]
        was_training = model.training
        model.eval()
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            texts: list[str] = []
            for first in range(0, len(every), batch_size):
                part = every[first : first + batch_size]
                texts += _generate(model, tokenizer, part, max_new_tokens, temperature)
        model.train(was_training)
        chats = [isinstance(prompt, list) for prompt in every]
        completions = [
            [{"role": "assistant", "content": text}] if chat else text
            for text, chat in zip(texts, chats, strict=True)
        ]
        told = {
            name: [value for value in column for _ in range(samples)]
            for name, column in columns.items()
        }
        scores = list(reward(prompts=every, completions=completions, **told))
        return [
            float(sum(scores[at : at + samples]) / samples) for at in range(0, len(every), samples)
        ]

    return measure


def _generate(
    model: Any, tokenizer: Any, prompts: Sequence[Any], max_new_tokens: int, temperature: float
) -> list[str]:
    texts = [
        tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        if isinstance(prompt, list)
        else prompt
        for prompt in prompts
    ]
    given = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    given = {name: given[name].to(model.device) for name in ("input_ids", "attention_mask")}
    made = model.generate(
        **given, do_sample=True, temperature=temperature, top_k=0, max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    new = made[:, given["input_ids"].shape[1] :]
    return tokenizer.batch_decode(new, skip_special_tokens=True)


def _from_first(rates: list[float]) -> list[float]:
    """Broadcast the rates of the first process, so that all processes decide alike."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rates
    held = [rates]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]


def _wait() -> None:
    """Wait until the first process has written."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
