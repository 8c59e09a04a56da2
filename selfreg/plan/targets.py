"""GPUs as XLA's compiler wants them described, to compile for one that is not there.

The description is a GpuTargetConfigProto in text form. Numbers of H100, H200 and A100 are those of
XLA's own files (openxla/xla, xla/backends/gpu/target_config/specs: h100_sxm, h200, a100_sxm_80; the
rates of single instructions are left out, which only guide the choice of tiles). XLA has no file
for Ada: L40S and RTX 4090 are NVIDIA's "Ada GPU Architecture" whitepaper (SMs, L2, clock), their
datasheets (memory, bandwidth), and the table "technical specifications per compute capability" of
the CUDA C++ Programming Guide (what one SM holds at 8.9).
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Target:
    """What the compiler is told of a GPU.

    Attributes:
      capability: The compute capability.
      cores: Streaming multiprocessors.
      float32_units: Of one core.
      core_threads: The most threads that one core holds.
      core_shared: Bytes of shared memory of one core; a block may ask for 1 KiB less.
      l2_cache: Bytes.
      bandwidth: Bytes a second, from its own memory.
      clock_ghz: Boost clock.
      memory: Bytes.
      name: As the driver calls it.
    """

    capability: tuple[int, int]
    cores: int
    float32_units: int
    core_threads: int
    core_shared: int
    l2_cache: int
    bandwidth: int
    clock_ghz: float
    memory: int
    name: str


_HOPPER = {"capability": (9, 0), "cores": 132, "float32_units": 128, "core_threads": 2048}
_ADA = {"capability": (8, 9), "float32_units": 128, "core_threads": 1536, "core_shared": 102_400}

TARGETS: dict[str, Target] = {
    "H200": Target(
        **_HOPPER, core_shared=233_472, l2_cache=52_428_800, bandwidth=4_800_000_000_000,
        clock_ghz=1.98, memory=151_397_597_184, name="NVIDIA H200",
    ),
    "H100": Target(
        **_HOPPER, core_shared=233_472, l2_cache=52_428_800, bandwidth=3_352_320_000_000,
        clock_ghz=1.98, memory=84_942_979_072, name="NVIDIA H100 80GB HBM3",
    ),
    "A100-80G": Target(
        capability=(8, 0), cores=108, float32_units=64, core_threads=2048, core_shared=167_936,
        l2_cache=41_943_040, bandwidth=2_039_040_000_000, clock_ghz=1.41, memory=85_100_068_864,
        name="NVIDIA A100-SXM4-80GB",
    ),
    "L40S": Target(
        **_ADA, cores=142, l2_cache=98_304 * 1024, bandwidth=864_000_000_000, clock_ghz=2.52,
        memory=48 * GIB, name="NVIDIA L40S",
    ),
    "RTX4090": Target(
        **_ADA, cores=128, l2_cache=73_728 * 1024, bandwidth=1_008_000_000_000, clock_ghz=2.52,
        memory=24 * GIB, name="NVIDIA GeForce RTX 4090",
    ),
}  # fmt: skip


def describe(target: Target, cuda: tuple[int, int], cudnn: tuple[int, int]) -> str:
    """A GpuTargetConfigProto in text form.

    Args:
      target: The GPU.
      cuda: Version of the CUDA libraries that will be there.
      cudnn: Version of cuDNN.
    """
    major, minor = target.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {target.core_shared}
  threads_per_core_limit: {target.core_threads}
  core_count: {target.cores}
  fpus_per_core: {target.float32_units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {target.bandwidth}
  l2_cache_size: {target.l2_cache}
  clock_rate_ghz: {target.clock_ghz}
  device_memory_size: {target.memory}
  shared_memory_per_block_optin: {target.core_shared - 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} }}
runtime_version {{ major: {cuda[0]} minor: {cuda[1]} patch: 0 }}
device_description_str: "{target.name}"
"""
