"""What accelerators hold and how fast they are, as their vendors print it."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator. GB are 10^9 bytes, a little less than the binary ones that most have.

    Attributes:
      memory_gb: Of the device itself.
      bfloat16_tflops: Dense matrix products, 10^12 FLOP/s.
      float32_tflops: The same on float32 inputs as JAX multiplies them, which is TF32 on tensor
        cores.
      bandwidth_gb_s: From its own memory.
      memory_fraction: What JAX may take of the memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says
        otherwise.
      largest_head: Elements of a head that cuDNN's attention takes there; 0: there is no cuDNN.
      source: Where the numbers are from.
    """

    memory_gb: float
    bfloat16_tflops: float
    float32_tflops: float
    bandwidth_gb_s: float
    memory_fraction: float
    largest_head: int
    source: str


def _here_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


DEVICES: dict[str, Device] = {
    "H200": Device(141, 989, 494, 4800, 0.75, 256, "NVIDIA H200 datasheet (SXM)"),
    "H100": Device(80, 989, 494, 3350, 0.75, 256, "NVIDIA H100 datasheet (SXM)"),
    "A100-80G": Device(80, 312, 156, 2039, 0.75, 128, "NVIDIA A100 datasheet (SXM 80 GB)"),
    "A100-40G": Device(40, 312, 156, 1555, 0.75, 128, "NVIDIA A100 datasheet (SXM 40 GB)"),
    "L40S": Device(48, 362, 183, 864, 0.75, 128, "NVIDIA L40S datasheet"),
    "RTX4090": Device(24, 165, 82.6, 1008, 0.75, 128, "NVIDIA Ada GPU architecture whitepaper"),
    # Not a vendor's: what two shared server cores reached in docs/performance.md.
    "CPU": Device(_here_gb(), 0.3, 0.3, 40, 1.0, 0, "docs/performance.md, two cores; this memory"),
}


def parse_devices(words: str) -> tuple[int, str]:
    """How many devices of which kind, from such as 8xH100, or H100 for one.

    Raises:
      ValueError: It reads otherwise, or the kind is not known.
    """
    count, cross, kind = words.partition("x")
    if not cross or not count.isdecimal():
        count, kind = "1", words
    known = {name.lower(): name for name in DEVICES}
    if kind.lower() not in known or int(count) < 1:
        raise ValueError(
            f"--devices={words!r} must be a count and a kind, such as 8xH100; kinds: "
            + ", ".join(DEVICES)
        )
    return int(count), known[kind.lower()]
