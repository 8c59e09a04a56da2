"""Describe GPUs for XLA's compiler, so that it can compile for a GPU that is not present.

The description is a GpuTargetConfigProto in text form. Its numbers have these sources:

- H100, H200 and A100: XLA's own files (openxla/xla, xla/backends/gpu/target_config/specs: h100_sxm,
  h200, a100_sxm_80). The rates of single instructions are left out, because they only guide the
  choice of tiles.
- RTX 4090: SMs, L2, clock, memory and bandwidth from reviews of the card.
- L40S: SMs, clock, memory and bandwidth from the pages of resellers. The pages disagree about its
  L2 (48 or 96 MB). The number here is the 96 MB of the whole AD102.
- Limits of one SM of both: XLA has no file for compute capability 8.9, so the numbers are those of
  its a6000 (8.6). They were not checked against NVIDIA's own tables for 8.9.

A test compares memory and bandwidth with selfreg.cli.plan.devices.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Target:
    """The description of a GPU for the compiler.

    Attributes:
      capability: The compute capability, which determines the limits of one core.
      cores: The number of streaming multiprocessors.
      l2_cache: The size of the L2 cache, in bytes.
      bandwidth: The bandwidth of the device's own memory, in bytes per second.
      clock_ghz: The boost clock, in GHz.
      memory: The size of the memory, in bytes.
      name: The name, for messages.
    """

    capability: tuple[int, int]
    cores: int
    l2_cache: int
    bandwidth: float
    clock_ghz: float
    memory: int
    name: str


HOPPER, AMPERE, ADA = (9, 0), (8, 0), (8, 9)  # compute capabilities
SHARED = {HOPPER: 233_472, AMPERE: 167_936, ADA: 102_400}  # bytes per core
THREADS = {HOPPER: 2048, AMPERE: 2048, ADA: 1536}  # most per core
FLOAT32_UNITS = {HOPPER: 128, AMPERE: 64, ADA: 128}  # per core

TARGETS: dict[str, Target] = {
    "H200": Target(HOPPER, 132, 52_428_800, 4.8e12, 1.98, 151_397_597_184, "NVIDIA H200"),
    "H100": Target(HOPPER, 132, 52_428_800, 3.35232e12, 1.98, 84_942_979_072, "NVIDIA H100"),
    "A100-80G": Target(AMPERE, 108, 41_943_040, 2.03904e12, 1.41, 85_100_068_864, "NVIDIA A100"),
    "L40S": Target(ADA, 142, 98_304 * 1024, 0.864e12, 2.52, 48 * GIB, "NVIDIA L40S"),
    "RTX4090": Target(ADA, 128, 73_728 * 1024, 1.008e12, 2.52, 24 * GIB, "NVIDIA RTX 4090"),
}


def describe(target: Target, cuda: tuple[int, int], cudnn: tuple[int, int]) -> str:
    """Write a GpuTargetConfigProto in text form.

    Args:
      target: The GPU.
      cuda: The version of the CUDA libraries to compile for.
      cudnn: The version of cuDNN to compile for.
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
