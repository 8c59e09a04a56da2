"""The in-process engine against transformers' generate, the trainer's logprobs, and itself."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from selfreg.policy import xla
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.hf import save_folder
from selfreg.policy.models.policy import load_policy
from selfreg.policy.rollout.jax_engine import (
    SEGMENT_TOKENS,
    JaxEngine,
    batch_sizes,
    decoding_threads,
    turns,
)
from selfreg.run.records import FinishReason, Request, Sampling

POLICY, PARAMS = load_policy("tiny")
PROMPTS = [
    np.array(POLICY.tokenizer.encode(text), np.int32)
    for text in (
        "# keep the even numbers, then return the sum\n",
        "# sort, then give back the list\n",
        "# square each, drop the first 3 items, reverse the list, then return the maximum\n",
    )
]


def engine(policy=POLICY, max_sequences=64):
    made = JaxEngine(policy, make_mesh(-1, 1, 1), dtype="float32", max_sequences=max_sequences)
    made.load_params(PARAMS)
    return made


def requests(prompts, group, first_seed=0):
    return [
        Request(prompt, np.arange(group, dtype=np.uint32) + first_seed + 1000 * i)
        for i, prompt in enumerate(prompts)
    ]


def tokens_of(rollouts):
    return [[r.completion_ids.tolist() for r in group] for group in rollouts]


def test_greedy_equals_transformers_token_for_token(tmp_path):
    save_folder(tmp_path, POLICY.config, PARAMS, POLICY.tokenizer)
    model = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    drawn = engine().generate(requests(PROMPTS, 1), Sampling(0.0, 1.0, 0, 40))
    for prompt, (rollout,) in zip(PROMPTS, drawn, strict=True):
        wanted = model.generate(
            torch.tensor(prompt[None]).long(), do_sample=False, max_new_tokens=40
        )
        assert rollout.completion_ids.tolist() == wanted[0, len(prompt) :].tolist()


def test_logprobs_equal_a_full_forward_at_the_sampling_temperature():
    decoder = POLICY.decoder(PARAMS)
    for group in engine().generate(requests(PROMPTS, 4), Sampling(0.7, 1.0, 0, 50)):
        for rollout in group:
            whole = np.concatenate([rollout.prompt_ids, rollout.completion_ids])[None]
            states = decoder(jnp.asarray(whole), jnp.array([whole.size]), jnp.dtype("float32"))
            hidden = states.hidden
            logits = (hidden @ decoder.head_weight.T)[0, len(rollout.prompt_ids) - 1 : -1]
            wanted = jax.nn.log_softmax(logits / 0.7)
            wanted = wanted[np.arange(len(wanted)), rollout.completion_ids]
            np.testing.assert_allclose(rollout.logprobs, wanted, atol=1e-4)


def test_a_completion_depends_on_its_own_prompt_and_seed_only():
    # 40 rows end at different times, so that rows are dropped and packed meanwhile.
    sampling = Sampling(1.0, 1.0, 0, 60)
    together = tokens_of(engine().generate(requests(PROMPTS, 16), sampling))
    lengths = {len(row) for group in together for row in group}
    assert min(lengths) <= SEGMENT_TOKENS < max(lengths)
    for i, request in enumerate(requests(PROMPTS, 16)):
        assert tokens_of(engine().generate([request], sampling)) == [together[i]]
    in_turns = engine(max_sequences=16).generate(requests(PROMPTS, 16), sampling)
    assert tokens_of(in_turns) == together


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 64))
def test_turns_beside_each_other_hold_no_more_rows_than_allowed(most, group, threads):
    requests, beside = turns(most, group, threads)
    assert min(requests, beside) >= 1
    assert requests * beside * group <= max(most, group)
    assert requests == turns(most, group, min(threads, 1))[0]  # independent of the number of cores


def test_a_batch_is_packed_only_into_rows_that_the_devices_can_split():
    assert batch_sizes(384, 1) == [384, 192, 96, 48, 24]
    assert batch_sizes(128, 8) == [128, 64, 32, 16]
    assert batch_sizes(120, 8) == [120]


def test_one_cpu_device_alone_decodes_in_threads():
    assert decoding_threads("cpu", 1) >= 1
    assert decoding_threads("cpu", 8) == decoding_threads("gpu", 1) == 0


def test_rows_of_a_group_differ_and_repeat_with_their_seeds():
    sampling = Sampling(1.0, 1.0, 0, 30)
    first = tokens_of(engine().generate(requests(PROMPTS, 8), sampling))
    assert tokens_of(engine().generate(requests(PROMPTS, 8), sampling)) == first
    assert len({tuple(row) for row in first[0]}) > 4


def test_stop_tokens_end_a_row_and_length_cuts_it():
    newline = POLICY.tokenizer.encode("\n")[0]
    stops = replace(POLICY, stop_ids=(newline, 1))
    for group in engine(stops).generate(requests(PROMPTS, 8), Sampling(0.7, 1.0, 0, 24)):
        for rollout in group:
            ids = rollout.completion_ids
            assert not np.isin(ids[:-1], stops.stop_ids).any()
            if rollout.finish_reason is FinishReason.STOP:
                assert ids[-1] in stops.stop_ids
            else:
                assert len(ids) == 24
                assert ids[-1] not in stops.stop_ids


def test_alternatives_are_the_likeliest_tokens_best_first():
    drawn = engine().generate(requests(PROMPTS, 2), Sampling(0.7, 1.0, 0, 20, num_alter_tokens=4))
    for rollout in (r for group in drawn for r in group):
        assert rollout.alter_ids.shape == (len(rollout.completion_ids), 4)
        assert np.all(np.diff(rollout.alter_logprobs, axis=1) <= 0)
        matches = rollout.alter_ids == rollout.completion_ids[:, None]
        own = np.where(
            matches.any(axis=1), np.sum(rollout.alter_logprobs * matches, axis=1), -np.inf
        )
        seen = matches.any(axis=1)
        np.testing.assert_allclose(own[seen], rollout.logprobs[seen], atol=1e-4)
        assert np.all(rollout.logprobs[~seen] <= rollout.alter_logprobs[~seen, -1] + 1e-5)


def test_nothing_is_compiled_after_warm_up():
    xla.set_up()
    sampling, made = Sampling(0.9, 1.0, 0, 40), engine(max_sequences=64)
    lengths = [len(p) for p in PROMPTS]
    # The second call has a full turn of 4, and then one of 1.
    made.warm_up([lengths, [*lengths, *lengths[:2]]], 16, sampling)
    before = xla.compile_count()
    for seed in range(6):
        made.generate(requests(PROMPTS, 16, seed), sampling)
    made.generate(requests([*PROMPTS, *PROMPTS[:2]], 16), sampling)
    assert xla.compile_count() == before


def test_the_trainers_weights_may_be_donated_after_loading():
    params = jax.tree.map(jnp.array, PARAMS)  # a copy, which is deleted below
    made = engine()
    made.load_params(params)
    before = tokens_of(made.generate(requests(PROMPTS, 2), Sampling(0.7, 1.0, 0, 20)))
    jax.tree.map(lambda leaf: leaf.delete(), params)
    assert tokens_of(made.generate(requests(PROMPTS, 2), Sampling(0.7, 1.0, 0, 20))) == before


def test_requests_of_different_sizes_are_refused():
    mixed = [*requests(PROMPTS[:1], 2), *requests(PROMPTS[:1], 3)]
    with pytest.raises(ValueError, match="same number"):
        engine().generate(mixed, Sampling(0.7, 1.0, 0, 20))
