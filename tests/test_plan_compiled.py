"""Compiling for GPUs that are not there: descriptions, what a compiled program says, the records.

The CUDA compiler itself is tested by `make gpu-compile`, in an environment of its own.
"""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.plan_cases import CASES
from benchmarks.plan_compiled import RECORDS, WITHIN, off, read_records
from selfreg.cli.plan.compiled import report
from selfreg.cli.plan.devices import DEVICES
from selfreg.cli.plan.hlo import attention_kernel, moved
from selfreg.cli.plan.targets import TARGETS, describe

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("kind", TARGETS)
def test_a_target_is_the_device_that_is_planned(kind):
    text = describe(TARGETS[kind], (12, 9), (9, 28))
    said = dict(re.findall(r"(\w+): (\S+)", text))
    device = DEVICES[kind]
    assert int(said["device_memory_size"]) == pytest.approx(device.memory_gb * 1e9, rel=0.08)
    assert int(said["memory_bandwidth"]) == pytest.approx(device.bandwidth_gb_s * 1e9, rel=0.01)
    major, minor = TARGETS[kind].capability
    assert f"cuda_compute_capability {{ major: {major} minor: {minor} }}" in text
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(find_spec("jax_plugins") is not None, reason="a plugin is installed here")
@pytest.mark.parametrize(
    ("device", "words"), [("8xH100", "gpu-compile"), ("1xA100-40G", "--compile knows H200")]
)
def test_what_cannot_be_compiled_is_told_in_one_line(device, words):
    command = [sys.executable, "-m", "selfreg.plan", "--config=configs/w17.py:7b", "--compile"]
    run = subprocess.run(
        [*command, f"--devices={device}"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert run.returncode == 2
    assert words in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_report_is_the_compilers_own_account():
    def program(state, x):
        return state + jnp.sin(x).sum(), jnp.outer(x, x) @ x

    arguments = jnp.zeros(1000), jnp.ones(1000)
    compiled = jax.jit(program, donate_argnums=0).lower(*arguments).compile()
    memory, found = compiled.memory_analysis(), report(compiled, devices=1)
    assert found.arguments == 8000
    assert found.made < 4000 + 100  # the result takes the place of the donated sum
    assert found.temporaries == memory.temp_size_in_bytes >= 4_000_000
    assert found.peak == found.arguments + found.made + found.temporaries
    assert (found.host, found.sent, found.attention) == (0, {}, "plain")


COLLECTIVES = """
    from functools import partial
    import jax, jax.numpy as jnp
    from jax.sharding import PartitionSpec as P
    from selfreg.policy.mesh import make_mesh
    from selfreg.cli.plan.hlo import moved

    mesh = make_mesh(2, 4, 1)

    @partial(jax.shard_map, mesh=mesh, in_specs=(P("fsdp"), P()), out_specs=P(), check_vma=False)
    def program(x, times):
        def known(total, _):
            return total + jax.lax.all_gather(x * total[0], "fsdp", tiled=True), None
        total, _ = jax.lax.scan(known, jnp.zeros(4096), None, length=3)
        def unknown(_, total):
            return jax.lax.psum(total, ("data", "fsdp"))
        return jax.lax.fori_loop(0, times, unknown, total)

    given = jnp.ones(4096), jnp.int32(5)
    found = moved(jax.jit(program).lower(*given).compile().as_text(), 8)
    # Three times three other devices' quarters of 16 KiB; and 7 of 8 parts, twice, in each turn.
    assert found.once == {"all-gather": 3 * 3 * 4096}, found
    assert found.a_turn == {"all-reduce": 2 * 7 / 8 * 16384}, found
    assert found.over(5)["all-reduce"] == 5 * 2 * 7 / 8 * 16384
"""


def test_collectives_count_as_often_as_their_loops_run(on_eight_devices):
    on_eight_devices(COLLECTIVES)


# As XLA's GPU backend writes them: asynchronous, several at once, and in groups of a mesh.
GPU_PROGRAM = """HloModule jit_update, is_scheduled=true

%scattered (p: bf16[3584,512]) -> bf16[448,512] {
  ROOT %reduce-scatter.1 = bf16[448,512]{1,0} reduce-scatter(%p), replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}, dimensions={0}
}

ENTRY %main (a: bf16[448,512]) -> bf16[448,512] {
  %all-gather-start = ((bf16[448,512]{1,0}, bf16[448,64]{1,0}), (bf16[3584,512]{1,0}, bf16[3584,64]{1,0})) all-gather-start(%a, %b), replica_groups=[2,8]<=[16], dimensions={0}
  %call-start = ((bf16[3584,512]), bf16[448,512]) async-start(%c), calls=%scattered
  %all-reduce-start = f32[10]{0} all-reduce-start(%d), replica_groups={{0,1},{2,3}}, to_apply=%sum
  ROOT %f = bf16[448,512] custom-call(%e), custom_call_target="__cudnn$fmhaScaleBiasSoftmax"
}
"""  # noqa: E501


def test_a_gpu_programs_collectives_and_attention_are_read():
    found = moved(GPU_PROGRAM, 16)
    assert found.once == {
        "all-gather": 7 * 2 * (448 * 512 + 448 * 64),
        "reduce-scatter": 7 * 2 * 448 * 512,
        "all-reduce": 2 * 1 / 2 * 40,
    }
    assert found.a_turn == {}
    assert attention_kernel(GPU_PROGRAM) == "cudnn"


def test_the_plan_is_within_a_tenth_of_what_the_cuda_compiler_said():
    records = read_records()
    assert RECORDS.exists()
    assert {name for name, _ in records} <= set(CASES)
    far = {key: f"{off(record):+.1%}" for key, record in records.items()
           if abs(off(record)) > WITHIN}  # fmt: skip
    assert not far
