"""The planner against values computed by hand, against the compiler, and as a command."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfreg.algorithms.parts.batch import Batch
from selfreg.cli.plan.devices import DEVICES, parse_devices
from selfreg.cli.plan.fit import Place, advise, enough_devices, fit, splits
from selfreg.cli.plan.job import make_job
from selfreg.cli.plan.memory import estimate
from selfreg.cli.plan.weights import Split, parameters, weights
from selfreg.cli.plan.work import estimate_work, pair_flops, token_flops
from selfreg.policy.learn.learner import make_learner
from selfreg.policy.learn.optim import make_optimizer
from selfreg.policy.learn.packing import make_packing, pack
from selfreg.policy.learn.train_step import LearnSettings
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.decoder import DecoderConfig
from selfreg.policy.models.policy import load_policy, make_policy
from selfreg.policy.models.presets import shape_of
from selfreg.policy.rollout.decode import unstack
from selfreg.policy.rollout.jax_engine import JaxEngine
from selfreg.run.config import default
from selfreg.run.records import Sampling
from selfreg.run.validate import resolve

ROOT = Path(__file__).parent.parent
TOKENIZER = load_policy("tiny")[0].tokenizer
WIDE = DecoderConfig(
    vocab_size=2048, width=256, layers=3, heads=8, kv_heads=8, head_dim=32, ffn_width=1024,
    rope_theta=1e4, norm_eps=1e-6, qkv_bias=True, tied_head=False,
)  # fmt: skip
PROMPT, COMPLETION, GROUP, PROBLEMS = 32, 64, 8, 2
COLOCATED = [
    "--config.rollout.engine=sglang",
    "--config.sglang.launch=True",
    "--config.sglang.colocated=True",
]


def small_job(remat="none", microbatch_rows=0, **changes):
    config = default()
    config.rollout.group_size, config.rollout.problems_per_step = GROUP, PROBLEMS
    config.rollout.max_prompt_tokens, config.rollout.max_new_tokens = PROMPT, COMPLETION
    config.model.remat = remat
    # Rows of one width only, because each width is a loop to compile.
    config.learn.row_tokens = (96,)
    config.learn.microbatch_rows = microbatch_rows
    config.learn.logprob_chunk_tokens = 128
    config.update_from_flattened_dict(changes)
    return resolve(config)


def lowered_update(policy, split, packing, sizes, config):
    """Lower the real update's programs, as they are given to the compiler."""
    problems, prompt, group, completion = sizes
    anchored = config.learn.ewc_coef > 0
    rule = make_optimizer(
        b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=1.0,
        state_dtype=config.optimizer.state_dtype,
    )  # fmt: skip
    settings = LearnSettings(
        config.model.dtype, config.learn.logprob_chunk_tokens, packing, ewc_coef=float(anchored)
    )
    learner = make_learner(policy, make_mesh(*split), rule, settings)
    ones = np.ones((problems * group, completion), np.float32)
    batch = Batch(
        prompt_ids=np.ones((problems, prompt), np.int32),
        prompt_lengths=np.full(problems, prompt, np.int32),
        completion_ids=ones.astype(np.int32),
        completion_mask=ones,
        logprobs=ones,
        advantages=ones[:, 0],
        token_weights=ones,
        slots=pack(np.full((problems, group), completion), completion, packing),
    )
    lowers = learner.lower(batch, anchored=anchored)
    return [lowers[name]() for name in ("update", "gradient", "step") if name in lowers]


def compiled_bytes(config, decoder, split):
    """Return the bytes per device of the real update's arguments and temporaries, when compiled."""
    learn = config.learn
    packing = make_packing(
        learn.row_tokens, learn.microbatch_rows, COMPLETION, PROBLEMS * GROUP, Split(*split).rows
    )
    lowered = lowered_update(
        make_policy(decoder, TOKENIZER, remat=config.model.remat), split, packing,
        (PROBLEMS, PROMPT, GROUP, COMPLETION), config,
    )  # fmt: skip
    *halves, step = [program.compile().memory_analysis() for program in lowered]
    # The input state is donated, and the output state takes its place.
    assert step.alias_size_in_bytes > 0.99 * step.output_size_in_bytes
    if not halves:
        return step.argument_size_in_bytes, step.temp_size_in_bytes
    (half,) = halves
    gradients = 2 * half.output_size_in_bytes
    state = step.argument_size_in_bytes - gradients
    return state, gradients + max(2 * half.temp_size_in_bytes, step.temp_size_in_bytes)


def planned_bytes(config, decoder, split):
    memory = estimate(make_job(config, decoder, gpu=False), Split(*split))
    state = sum(size for name, size in memory.stays.items() if not name.startswith("engine"))
    # The compiler does not count the tiles that matrix products fill at run time.
    update = [size for name, size in memory.update.items() if not name.endswith("in tiles")]
    return state, sum(update)


def assert_plan_is_the_compilers(config, decoder, split=(1, 1, 1)):
    state, update = planned_bytes(config, decoder, split)
    arguments, temporaries = compiled_bytes(config, decoder, split)
    assert state == pytest.approx(arguments, rel=0.02)
    assert state + update == pytest.approx(arguments + temporaries, rel=0.15)


@pytest.mark.parametrize(
    ("decoder", "remat", "rows", "changes"),
    [
        (shape_of("tiny"), "none", 0, {}),
        (WIDE, "layer", 8, {}),
        (WIDE, "dots", 4, {}),
        (WIDE, "layer", 8, {"learn.ewc_coef": 1.0}),
        (WIDE, "layer", 8, {"optimizer.state_dtype": "int8"}),
        (WIDE, "dots", 8, {"optimizer.state_dtype": "bfloat16", "model.dtype": "bfloat16"}),
    ],
    ids=["tiny-none", "layer", "dots", "layer-EWC", "layer-8-bit", "dots-bfloat16"],
)
def test_memory_is_what_the_compiler_says(decoder, remat, rows, changes):
    assert_plan_is_the_compilers(small_job(remat, rows, **changes), decoder)


def test_scoring_and_sharing_of_completions_count():
    def work(**changes):
        job = make_job(small_job(**changes), WIDE, gpu=True)
        return estimate_work(job, Split(1, 1, 1), DEVICES["H100"], mfu=0.5, mbu=0.5)

    plain, kl = work(), work(**{"learn.kl_schedule": (0.0, 0.01)})
    assert plain.score.flops == 0 < kl.score.flops
    assert work(**{"learn.algorithm": "dpo"}).score.flops == 2 * kl.score.flops
    assert work(**{"learn.algorithm": "clip_cov"}).score.flops == kl.score.flops
    shared = work(**{"learn.updates_per_batch": 5})
    assert shared.sample.seconds == pytest.approx(plain.sample.seconds / 5)
    assert shared.update == plain.update


def test_a_reference_and_a_mean_of_weights_are_held_where_there_are_any():
    def held(**changes):
        stays = estimate(make_job(small_job(**changes), WIDE, gpu=True), Split(1, 1, 1)).stays
        return {name: stays[name] for name in ("reference policy", "averaged weights")}

    whole = 4 * sum(parameters(WIDE).values())
    assert held() == {"reference policy": 0, "averaged weights": 0}
    assert held(**{"learn.kl_coef": 0.1})["reference policy"] == whole
    assert held(**{"learn.algorithm": "dpo"})["reference policy"] == whole
    assert held(**{"learn.algorithm": "clip_cov"})["reference policy"] == 0  # it scores only itself
    assert held(**{"optimizer.average_decay": 0.9})["averaged weights"] == whole


def test_memory_of_long_prompts_and_of_rows_of_all_widths_is_what_the_compiler_says(monkeypatch):
    for name, size in {"PROMPT": 128, "GROUP": 2, "PROBLEMS": 3}.items():
        monkeypatch.setattr(f"{__name__}.{name}", size)
    assert_plan_is_the_compilers(small_job(**{"learn.row_tokens": ()}), shape_of("tiny"))


def test_memory_of_long_rows_whose_scores_are_most_of_it_is_what_the_compiler_says(monkeypatch):
    sizes = {"PROMPT": 500, "COMPLETION": 512, "GROUP": 2, "PROBLEMS": 1}
    for name, size in sizes.items():
        monkeypatch.setattr(f"{__name__}.{name}", size)
    assert_plan_is_the_compilers(small_job("layer", **{"learn.row_tokens": ()}), shape_of("tiny"))


MESHES = """
    from tests import test_plan as t
    for split in ((2, 2, 2), (1, 8, 1)):
        t.assert_plan_is_the_compilers(t.small_job("layer"), t.WIDE, split)
"""


def test_memory_on_eight_devices_is_what_the_compiler_says(on_eight_devices):
    on_eight_devices(MESHES)


def test_the_update_of_a_deep_model_is_no_larger_a_program():
    counts = []
    for layers in (4, 32):
        policy = make_policy(replace(shape_of("tiny"), layers=layers), TOKENIZER)
        packing, sizes = make_packing((), 2, 8, 4, 1), (1, 8, 4, 8)
        lowered = lowered_update(policy, (1, 1, 1), packing, sizes, small_job())
        counts.append([program.as_text().count("\n") for program in lowered])
    assert counts[0] == counts[1]
    assert min(counts[0]) > 100


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen2.5-32B-Instruct", 32_763_876_352),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("google/gemma-3-4b-it", 3_880_263_168),  # its text half
        ("smollm2", 134_515_008),
    ],
)
def test_known_models_have_their_published_size(name, count):
    assert sum(parameters(shape_of(name)).values()) == count


def test_a_folder_needs_no_weights(tmp_path):
    raw = json.loads((ROOT / "selfreg/policy/models/tiny/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert shape_of(str(tmp_path)) == shape_of("tiny")
    with pytest.raises(ValueError, match=r"nowhere.*Qwen/Qwen2.5-3B-Instruct"):
        shape_of("nowhere")


def test_flops_by_hand():
    decoder = replace(WIDE, kv_heads=2)
    matrices = 256 * 256 * 2 + 2 * 64 * 256 + 3 * 256 * 1024  # q, o; k, v; gate, up, down
    assert token_flops(decoder) == (2 * 3 * matrices, 2 * 2048 * 256)
    # Five tokens after three see 4 + 5 + 6 + 7 + 8 keys.
    assert pair_flops(decoder, 3, 5) == 3 * 30 * 4 * 8 * 32


def test_an_update_is_six_flops_a_weight_and_token_and_attention():
    config = small_job(**{"learn.row_tokens": ()})
    job = make_job(config, WIDE, gpu=True)
    work = estimate_work(job, Split(1, 1, 1), DEVICES["H100"], mfu=0.5, mbu=0.5)
    matrices, head = token_flops(WIDE)
    tokens = PROBLEMS * (PROMPT + GROUP * COMPLETION)
    pairs = PROBLEMS * (pair_flops(WIDE, 0, PROMPT) + GROUP * pair_flops(WIDE, PROMPT, COMPLETION))
    # The head runs a fourth time, because the backward pass recomputes a chunk's logits.
    targets = PROBLEMS * GROUP * COMPLETION
    assert work.update.flops == 3 * (tokens * matrices + pairs) + 4 * targets * head
    assert work.update.seconds == pytest.approx(work.update.flops / (494e12 * 0.5))
    eight = estimate_work(job, Split(8, 1, 1), DEVICES["H100"], mfu=0.5, mbu=0.5)
    assert eight.update.seconds == pytest.approx(work.update.seconds / 8)
    # A row of 96 slots holds one completion of 64 tokens, and all 96 slots are computed.
    padded = make_job(small_job(), WIDE, gpu=True)
    more = estimate_work(padded, Split(1, 1, 1), DEVICES["H100"], mfu=0.5, mbu=0.5)
    assert more.update.flops - work.update.flops == targets / 2 * (3 * matrices + 4 * head)


def test_decoding_reads_the_weights_once_a_token():
    config = small_job(**{"rollout.max_sequences": 16, "model.dtype": "bfloat16"})
    decoder = shape_of("Qwen/Qwen2.5-7B-Instruct")
    job = make_job(config, decoder, gpu=True)
    work = estimate_work(job, Split(1, 1, 1), DEVICES["H100"], mfu=0.4, mbu=1.0)
    # 16 rows at once, of two prompts. Each prompt is read once for all its rows.
    cache = 2 * 28 * 4 * 128 * 2 * COMPLETION * (2 * PROMPT + 16 * COMPLETION / 2)
    assert work.sample.bytes == COMPLETION * 2 * 7_615_616_512 + cache
    assert work.sample.seconds > work.sample.bytes / 3350e9


def test_shards_and_meshes_multiply_out():
    split = Split(2, 2, 2)
    sizes = {w.name: w.size / w.shard for w in weights(WIDE, split)}
    assert (sizes["gate"], sizes["embedding"], sizes["ffn_norm"]) == (4, 4, 1)
    assert len(set(splits(8))) == 10
    assert all(math.prod(each) == 8 for each in splits(8))


def test_a_mesh_is_found_and_what_does_not_fit_is_helped():
    config, decoder = small_job(), shape_of("Qwen/Qwen2.5-3B-Instruct")
    room = Place(8, 60e9, gpu=True)
    found = fit(small_job(**{"mesh.data": 3}), decoder, room)
    assert found.fits
    assert math.prod(found.split) == 8
    assert found.mesh_settings["mesh.fsdp"] == found.split.fsdp
    assert not fit(config, decoder, room).fits  # eight full copies
    change = advise(config, decoder, room)
    assert change.peak <= room.room
    settings = {f"mesh.{axis}": size for axis, size in found.split._asdict().items()}
    assert change.settings == settings
    assert fit(small_job(**change.settings), decoder, room).memory.peak == change.peak
    assert enough_devices(config, decoder, Place(1, 60e9, gpu=True)) == 2


def test_devices_are_a_count_and_a_kind():
    assert parse_devices("8xH100") == (8, "H100")
    assert parse_devices("2xa100-80g") == (2, "A100-80G")
    assert parse_devices("RTX4090") == (1, "RTX4090")
    for words in ("8xP100", "0xH100", "8"):
        with pytest.raises(ValueError, match="such as 8xH100"):
            parse_devices(words)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (
            ["--config=configs/w17.py:7b", "--devices=8xH100"],
            0,
            ("7,615.62", "fits", "chain", "model.remat"),
        ),
        (
            ["--config=configs/w17.py", "--devices=8xH100", *COLOCATED],
            0,
            ("SGLang servers draw", "sglang.memory_fraction"),
        ),
        (["--config=configs/w17.py", "--devices=1xRTX4090"], 2, ("not fit", "xRTX4090")),
        (["--config=configs/w17.py:13b"], 2, ("one of 3b, 7b",)),
        (["--config=configs/tiny.py", "--config.sed=1"], 2, ("did you mean seed?",)),
        (["--config=configs/tiny.py", "--devices=P100"], 2, ("such as 8xH100",)),
        (["--config=configs/tiny.py", "--lengths=64"], 2, ("--lengths='64'",)),
    ],
)
def test_the_command(flags, code, words):
    command = [sys.executable, "-m", "selfreg.plan", *flags]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == code, run.stderr
    assert all(word in run.stdout + run.stderr for word in words)
    assert len(run.stderr.splitlines()) <= (code == 2)


def test_the_engines_weights_are_those_of_the_plan():
    policy, params = load_policy("tiny")  # whose head is its embedding
    made = jax.jit(partial(unstack, policy, dtype=jnp.dtype("float32")))(params)
    job = make_job(small_job(), policy.config, gpu=False)
    planned = estimate(job, Split(1, 1, 1)).stays["engine's weights"]
    assert sum(weight.nbytes for weight in jax.tree.leaves(made)) == planned


def test_what_servers_hold_is_not_the_trainers_and_what_is_drawn_ahead_is():
    def memory(**changes):
        job = make_job(small_job(**changes), WIDE, gpu=False)
        return estimate(job, Split(1, 1, 1))

    own, ahead = memory(), memory(**{"rollout.overlap": True})
    assert sum(ahead.update.values()) > sum(own.update.values())
    assert ahead.stays == own.stays
    served = memory(**{"rollout.engine": "sglang", "sglang.launch": True, "rollout.overlap": True})
    assert not served.sample
    assert sum(served.update.values()) == sum(own.update.values())
    engine = sum(own.stays.values()) - sum(served.stays.values())
    assert engine == served.host["weights for the servers"] == own.stays["engine's weights"]


@pytest.mark.parametrize(("prompt", "completion"), [(100, 96), (500, 512), (60, 256)])
def test_decodings_plan_is_the_compilers(prompt, completion):
    policy, params = load_policy("tiny")
    engine = JaxEngine(policy, make_mesh(-1, 1, 1), dtype="float32", max_sequences=32)
    engine.load_params(params)
    config = small_job(
        **{
            "rollout.max_new_tokens": completion, "rollout.group_size": 16,
            "rollout.max_sequences": 32, "learn.row_tokens": (), "problems.panel_count": 2,
            "problems.report_count": 2, "rollout.problems_per_step": 2,
        }
    )  # fmt: skip
    sampling = Sampling(1.0, 1.0, 0, completion)
    width = 1 << (prompt - 1).bit_length()
    turn = engine._begin(
        np.zeros((2, width), np.int32), np.full(2, prompt, np.int32), np.zeros(32, np.uint32), 32,
        sampling,
    )  # fmt: skip
    programs, lane = engine._programs, 4
    given = (np.zeros((2, width), np.int32), np.ones(2, np.int32), turn.rows.seeds)
    compiled = [
        programs.prefill.lower(
            engine._weights,
            *given,
            turn.rows.stopped,
            lane=16,
            new_tokens=-(-completion // 16) * 16,
        ),
        programs.pack.lower(turn.rows, np.zeros((1, 16), int), lane=lane),
    ]
    analyses = [lowered.compile().memory_analysis() for lowered in compiled]
    rows = analyses[0].output_size_in_bytes
    most = max(rows + analyses[0].temp_size_in_bytes, rows + analyses[1].output_size_in_bytes)
    job = make_job(config, policy.config, gpu=False, lengths=(prompt, completion))
    planned = estimate(job, Split(1, 1, 1)).sample
    assert sum(planned.values()) == pytest.approx(most, rel=0.15)


def test_attention_is_fused_where_cudnn_takes_the_heads():
    config, decoder = small_job(**{"model.dtype": "bfloat16"}), shape_of("google/gemma-3-4b-it")

    def fused(kind):
        head = DEVICES[kind].largest_head
        return make_job(config, decoder, gpu=True, largest_head=head).fused_attention

    assert decoder.head_dim == 256
    assert fused("H100")
    assert not fused("A100-80G")
