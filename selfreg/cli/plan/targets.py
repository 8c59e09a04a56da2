"""GPUs as XLA's compiler wants them described, to compile for one that is not there.

The description is a GpuTargetConfigProto in text form. Where its numbers are from:

- H100, H200 and A100: XLA's own files (openxla/xla, xla/backends/gpu/target_config/specs: h100_sxm,
  h200, a100_sxm_80). The rates of single instructions are left out: they only guide the choice of
  tiles.
- RTX 4090: SMs, L2, clock, memory and bandwidth as reviews of the card print them.
- L40S: SMs, clock, memory and bandwidth as resellers print them. Their pages do not agree about its
  L2 (48 or 96 MB); here it is the 96 MB of the whole AD102.
- What one SM of either holds: XLA has no file for compute capability 8.9, and these are the numbers
  of its a6000 (8.6). That they are the same at 8.9 was not checked against NVIDIA's own tables.

A test compares memory and bandwidth with selfreg.plan.devices.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Target:
    """What the compiler is told of a GPU.

    Attributes:
      capability: The compute capability, which says what one core holds.
      cores: Streaming multiprocessors.
      l2_cache: Bytes.
      bandwidth: Bytes a second, from its own memory.
      clock_ghz: Boost clock.
      memory: Bytes.
      name: For messages.
    """

    capability: tuple[int, int]
    cores: int
    l2_cache: int
    bandwidth: float
    clock_ghz: float
    memory: int
    name: str


HOPPER, AMPERE, ADA = (9, 0), (8, 0), (8, 9)  # compute capabilities
SHARED = {HOPPER: 233_472, AMPERE: 167_936, ADA: 102_400}  # bytes of one core
THREADS = {HOPPER: 2048, AMPERE: 2048, ADA: 1536}  # the most of one core
FLOAT32_UNITS = {HOPPER: 128, AMPERE: 64, ADA: 128}  # of one core

TARGETS: dict[str, Target] = {
    "H200": Target(HOPPER, 132, 52_428_800, 4.8e12, 1.98, 151_397_597_184, "NVIDIA H200"),
    "H100": Target(HOPPER, 132, 52_428_800, 3.35232e12, 1.98, 84_942_979_072, "NVIDIA H100"),
    "A100-80G": Target(AMPERE, 108, 41_943_040, 2.03904e12, 1.41, 85_100_068_864, "NVIDIA A100"),
    "L40S": Target(ADA, 142, 98_304 * 1024, 0.864e12, 2.52, 48 * GIB, "NVIDIA L40S"),
    "RTX4090": Target(ADA, 128, 73_728 * 1024, 1.008e12, 2.52, 24 * GIB, "NVIDIA RTX 4090"),
}


def describe(target: Target, cuda: tuple[int, int], cudnn: tuple[int, int]) -> str:
    """A GpuTargetConfigProto in text form.

    Args:
      target: The GPU.
      cuda: Version of the CUDA libraries that will be there.
      cudnn: Version of cuDNN.
    """
    major, minor = own = target.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {SHARED[own]}
  threads_per_core_limit: {THREADS[own]}
  core_count: {target.cores}
  fpus_per_core: {FLOAT32_UNITS[own]}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {target.bandwidth:.0f}
  l2_cache_size: {target.l2_cache}
  clock_rate_ghz: {target.clock_ghz}
  device_memory_size: {target.memory}
  shared_memory_per_block_optin: {SHARED[own] - 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} }}
runtime_version {{ major: {cuda[0]} minor: {cuda[1]} patch: 0 }}
device_description_str: "{target.name}"
"""
