"""CollapseGuard in a real GRPOTrainer, with a tiny random model on the CPU."""

import json

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from selfreg.guard import Settings, Source, history
from selfreg.integrations.trl import BEST, FOLDER, OBSERVATIONS, CollapseGuard, panel_of

WORDS = [f"w{i}" for i in range(16)]
PROMPTS = [f"w{i} w{j}" for i in range(6) for j in range(4)]
OTHERS = [f"w{i} w{j}" for i in range(6, 12) for j in range(4)]
LENGTH = 8


def varied(completions, **_):
    """Reward 1 for at least six different words of eight, which a collapsed policy never writes."""
    return [float(len(set(text.split())) >= 6) for text in completions]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def trainer_of(folder, tokenizer, lr, steps, guard, **changes):
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more threads would wait for each other while other tests run
    shape = LlamaConfig(
        vocab_size=18, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=0, eos_token_id=1, max_position_embeddings=32,
    )  # fmt: skip
    chosen = {
        "per_device_train_batch_size": 32, "num_generations": 8, "max_steps": steps,
        "max_completion_length": LENGTH, "learning_rate": lr, "lr_scheduler_type": "constant",
        "save_strategy": "no", "logging_steps": 1, "report_to": "none", "use_cpu": True, "seed": 0,
        "disable_tqdm": True, "beta": 0.0, "max_grad_norm": 1e9,
    } | changes  # fmt: skip
    return GRPOTrainer(
        model=LlamaForCausalLM(shape),
        reward_funcs=varied,
        args=GRPOConfig(output_dir=str(folder), **chosen),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tokenizer,
        callbacks=[guard],
    )


def panel():
    return panel_of(OTHERS, varied, samples=4, max_new_tokens=LENGTH)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_collapsing_run_is_stopped_and_its_best_weights_are_loaded(tmp_path, tokenizer):
    guard = CollapseGuard(panel(), every_steps=2)
    trainer = trainer_of(
        tmp_path, tokenizer, 0.3, 60, guard,
        save_strategy="steps", save_steps=5, save_total_limit=1,
    )  # fmt: skip
    first = weights(trainer.model)
    trainer.train()
    assert guard.alarm.startswith("The policy at step")
    assert "fewer than 1 in 20 whole runs" in guard.alarm
    stopped, best = trainer.state.global_step, guard.decision.reference
    assert best < stopped < 60
    seen = history.read(tmp_path / FOLDER / OBSERVATIONS)
    means = {look.step: sum(look.rates) / len(look.rates) for look in seen}
    assert means[best] - means[stopped] > 0.2
    # Training leaves the weights that measured best: measuring them again gives the same rates.
    rates = panel()(trainer.model, tokenizer)
    assert rates == list(next(look.rates for look in seen if look.step == best))
    (kept,) = (tmp_path / FOLDER).glob(f"{BEST}*")
    assert kept.name == f"{BEST}{best}"
    loaded = LlamaForCausalLM.from_pretrained(kept)
    assert same(weights(loaded), weights(trainer.model))
    assert same(first, weights(trainer.model)) == (best == 0)


def test_a_run_that_does_not_collapse_goes_to_its_end(tmp_path, tokenizer):
    guard = CollapseGuard(panel(), every_steps=2)
    trainer = trainer_of(tmp_path, tokenizer, 1e-4, 8, guard)
    trainer.train()
    assert guard.alarm == ""
    assert trainer.state.global_step == 8
    assert [seen.step for seen in history.read(tmp_path / FOLDER / OBSERVATIONS)] == list(
        range(0, 9, 2)
    )


def test_a_resumed_run_makes_the_same_observations_as_a_whole_one(tmp_path, tokenizer):
    whole = CollapseGuard(panel(), every_steps=2)
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(tmp_path / "whole", tokenizer, 3e-3, 6, whole, **saving).train()
    resumed = CollapseGuard(panel(), every_steps=2)
    trainer = trainer_of(tmp_path / "cut", tokenizer, 3e-3, 6, resumed, **saving)
    trainer.args.max_steps = 5  # stopped after step 5; the checkpoint is from step 2
    trainer.train()
    resumed = CollapseGuard(panel(), every_steps=2)
    trainer = trainer_of(tmp_path / "cut", tokenizer, 3e-3, 6, resumed, **saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    texts = [
        (tmp_path / name / FOLDER / OBSERVATIONS).read_text().splitlines()
        for name in ("whole", "cut")
    ]
    assert [json.loads(line)["step"] for line in texts[1]] == [0, 2, 4, 6]
    assert texts[0] == texts[1]
    assert resumed.decision == whole.decision


def test_the_log_is_watched_without_a_panel(tmp_path, tokenizer):
    guard = CollapseGuard(every_steps=3)
    trainer_of(tmp_path, tokenizer, 1e-4, 6, guard).train()
    seen = history.read(tmp_path / FOLDER / OBSERVATIONS)
    assert [row.step for row in seen] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= row.reward <= 1 for row in seen)
    assert any((tmp_path / FOLDER).glob(f"{BEST}*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"settings": Settings()}, "'panel', but there is no panel"),
        ({"panel": len, "settings": Settings(source=Source.LOG)}, "'log', but there is a panel"),
        ({"every_steps": 0}, "every_steps=0"),
        ({"panel": len, "settings": Settings(restores=1)}, "loop around the trainer"),
    ],
)
def test_impossible_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        CollapseGuard(**arguments)


def test_measuring_leaves_the_random_state_of_training_alone(tokenizer, tmp_path):
    trainer = trainer_of(tmp_path, tokenizer, 1e-4, 1, CollapseGuard())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = panel()(trainer.model, tokenizer)
    assert torch.equal(torch.rand(3), expected)
    assert panel()(trainer.model, tokenizer) == first
    with pytest.raises(ValueError, match="answer has 1 values for 24 prompts"):
        panel_of(OTHERS, varied, answer=["x"])
