"""The shape of a decoder, as a model's config.json describes it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3.1's scaling of rotary angles to longer contexts (arXiv:2407.21783, section 3.2).

    Wavelengths above `original_positions / low_frequency_factor` are multiplied by `factor`, and
    those below `original_positions / high_frequency_factor` stay. Frequencies in between are
    interpolated.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Linear scaling to longer contexts, which divides rotary angles by `factor`.

    Chen et al. 2023, arXiv:2306.15595.
    """

    factor: float


@dataclass(frozen=True, slots=True)
class Sliding:
    """Sliding-window layers, which see only the latest positions and have their own rotary base.

    Attributes:
      window: The number of positions that a query sees, its own included.
      layers: For each layer, True if it has a sliding window, and False for full attention.
      rope_theta: The rotary base of the sliding-window layers. Their angles are never scaled.
    """

    window: int
    layers: tuple[bool, ...]
    rope_theta: float


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The shape of a decoder. Sizes count elements.

    Attributes that not every family has:
      qk_norm: Normalize each head's query and key before the rotation.
      centered_norms: A norm's scale is 1 + its weight.
      sandwich_norms: Also normalize the outputs of attention and FFN.
      scaled_embedding: Multiply embeddings by the square root of the width.
      activation: The activation of the FFN's gate, by Hugging Face's name.
      query_scalar: Scores are divided by its square root. None: head_dim.
      max_positions: The model's maximum context length. None: unknown. Only saved folders use it.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    rope_theta: float
    norm_eps: float
    qkv_bias: bool
    tied_head: bool
    qk_norm: bool = False
    centered_norms: bool = False
    sandwich_norms: bool = False
    scaled_embedding: bool = False
    activation: str = "silu"
    query_scalar: int | None = None
    rope_scaling: RopeScaling | LinearScaling | None = None
    sliding: Sliding | None = None
    max_positions: int | None = None

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: RoPE rotates pairs")
        if self.sliding and len(self.sliding.layers) != self.layers:
            raise ValueError(
                f"sliding.layers={self.sliding.layers} needs one entry for each of the "
                f"{self.layers} layers"
            )

    @property
    def attention_scale(self) -> float:
        """The factor on the products of queries and keys."""
        return (self.query_scalar or self.head_dim) ** -0.5

    @property
    def window(self) -> int | None:
        """The number of positions that sliding-window layers see. None without such layers."""
        return self.sliding.window if self.sliding else None

    @property
    def slides(self) -> tuple[bool, ...]:
        """For each layer, whether it has a sliding window."""
        return self.sliding.layers if self.sliding else (False,) * self.layers
