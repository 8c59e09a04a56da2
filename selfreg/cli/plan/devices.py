"""The memory and the speed of accelerators, as their vendors state them."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator. 1 GB is 10^9 bytes; most devices have binary GB, which are a little larger.

    Attributes:
      memory_gb: Memory of the device, in GB.
      bfloat16_tflops: Speed of dense matrix products in bfloat16, in 10^12 FLOP/s.
      float32_tflops: Speed of dense matrix products of float32 inputs, in 10^12 FLOP/s. JAX
        computes them in TF32 on tensor cores.
      bandwidth_gb_s: Bandwidth of the device's own memory, in GB/s.
      memory_fraction: The share of the memory that JAX may take, unless the environment sets
        XLA_PYTHON_CLIENT_MEM_FRACTION.
      largest_head: The largest head, in elements, that cuDNN's attention takes on this device; 0 if
        there is no cuDNN.
      source: The source of the numbers.
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
    # These are no vendor's numbers: two shared server cores reached them in docs/performance.md.
    "CPU": Device(_here_gb(), 0.3, 0.3, 40, 1.0, 0, "docs/performance.md, two cores; this memory"),
}


def parse_devices(words: str) -> tuple[int, str]:
    """Parse the count and the kind of devices from a text such as 8xH100, or H100 for one device.

    Raises:
      ValueError: The text has another form, or the kind is unknown.
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
