"""The shape of a decoder: what a family's config.json says of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How Llama 3.1 stretches rotary angles to longer contexts (arXiv:2407.21783, section 3.2).

    Wavelengths above `original_positions / low_frequency_factor` are stretched by `factor`, those
    below `original_positions / high_frequency_factor` are kept, and those between are blended.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Rotary angles of a stretched context: all of them divided by `factor` (arXiv:2306.15595)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Sliding:
    """Layers that see the latest positions only, with a rotary base of their own.

    Attributes:
      window: Positions that a query sees, its own included.
      layers: True for each layer that slides, False for each that sees everything.
      rope_theta: The rotary base of those that slide; they are never stretched.
    """

    window: int
    layers: tuple[bool, ...]
    rope_theta: float


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The shape of a decoder. Sizes are counts of elements.

    Attributes that not every family has:
      qk_norm: Norm each head's query and key before they are rotated.
      centered_norms: A norm's weight is what it adds to a scale of 1.
      sandwich_norms: Norm what attention and FFN return, too.
      scaled_embedding: Multiply embeddings by the root of the width.
      activation: Of the FFN's gate, by Hugging Face's name.
      query_scalar: Scores are divided by its root; None: head_dim.
      max_positions: What the model was made for; None: not known. Only kept for the folder.
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
            raise ValueError(f"head_dim={self.head_dim} must be even: rotary angles turn pairs")
        if self.sliding and len(self.sliding.layers) != self.layers:
            raise ValueError(
                f"sliding.layers={self.sliding.layers}: not one for each of {self.layers}"
            )

    @property
    def attention_scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        return (self.query_scalar or self.head_dim) ** -0.5

    @property
    def window(self) -> int | None:
        """Positions that sliding-window layers see; None without such layers."""
        return self.sliding.window if self.sliding else None

    @property
    def slides(self) -> tuple[bool, ...]:
        """Whether each layer is a sliding-window layer."""
        return self.sliding.layers if self.sliding else (False,) * self.layers
