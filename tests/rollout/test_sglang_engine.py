"""The SGLang engine against a fast fake server, which is checked against real recordings."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from selfreg.policy.models.policy import TINY, load_policy
from selfreg.policy.rollout.sglang_client import ServerLostError, generate_body, read_answer
from selfreg.policy.rollout.sglang_engine import EngineError, Patience, SGLangEngine
from selfreg.policy.rollout.weight_sync import SyncError, WeightSync
from selfreg.run.records import FinishReason, Request, Sampling
from tests.rollout.fake_sglang import FakeServer, recorded

POLICY, PARAMS = load_policy("tiny")[0], None
SAMPLING = Sampling(0.7, 1.0, 0, 12)
QUICK = Patience(request_s=60.0, ready_s=5.0, sync_s=5.0, attempts=2, recoveries=2)
# Use this only where a server hangs. A stalled machine would answer late and be asked again.
SHORT = replace(QUICK, request_s=2.0)


def weights(scale=1.0):
    import jax

    from selfreg.policy.models.policy import random_params

    return jax.tree.map(lambda a: a * scale, random_params(POLICY.config, seed=0))


def requests(prompts=3, group=4):
    return [
        Request(np.array([5, 6, 7 + i], np.int32), np.arange(group, dtype=np.uint32) + 10 * i)
        for i in range(prompts)
    ]


def ids_of(drawn):
    return [[r.completion_ids.tolist() for r in group] for group in drawn]


@pytest.fixture
def fake():
    with FakeServer() as server:
        yield server


@pytest.fixture
def make(tmp_path):
    """Make an engine with weights: make(server, ..., option=value)."""
    engines = []

    def start(*servers, load=True, **options):
        sync = WeightSync(POLICY.config, dtype="float32", parent=tmp_path)
        options = {"patience": QUICK} | options
        engine = SGLangEngine(POLICY, [s.url for s in servers], sync, **options)
        engines.append(engine)
        if load:
            engine.load_params(weights(), "0.0")
        return engine

    yield start
    for engine in engines:
        engine.close()


def test_each_seed_of_each_request_gets_one_completion_in_order(fake, make):
    wanted = requests()
    drawn = make(fake).generate(wanted, SAMPLING)
    assert [len(group) for group in drawn] == [4, 4, 4]
    for request, group in zip(wanted, drawn, strict=True):
        for rollout in group:
            np.testing.assert_array_equal(rollout.prompt_ids, request.prompt_ids)
            assert len(rollout.completion_ids) == len(rollout.logprobs) <= 12
            stopped = rollout.completion_ids[-1] in POLICY.stop_ids
            assert (rollout.finish_reason is FinishReason.STOP) == stopped
            assert rollout.versions == ("0.0",)
    asked = {(prompt, seed) for _, prompt, seed in fake.drawn}
    assert asked == {(tuple(r.prompt_ids), int(s)) for r in wanted for s in r.seeds}
    assert len(fake.drawn) == 12


def test_alternatives_come_best_first(fake, make):
    (group,) = make(fake).generate(requests(1), Sampling(0.7, 1.0, 0, 6, num_alter_tokens=3))
    for rollout in group:
        assert rollout.alter_ids.shape == (len(rollout.completion_ids), 3)
        assert np.all(np.diff(rollout.alter_logprobs, axis=1) < 0)


@pytest.mark.parametrize("fault", ["drop", "500", "malformed", "short", "abort", "stale", "hang"])
def test_a_fault_drops_and_doubles_no_sample(fault, fake, make):
    engine = make(fake, patience=SHORT if fault == "hang" else QUICK)
    right = ids_of(engine.generate(requests(), SAMPLING))
    fake.drawn.clear()
    fake.faults = [None, fault, None, None, fault]
    assert ids_of(engine.generate(requests(), SAMPLING)) == right
    assert len(fake.drawn) == 12
    assert (
        engine.take_metrics()[
            "rollout/request_retries" if fault != "stale" else "rollout/stale_samples"
        ]
        == 2
    )
    if fault == "hang":
        assert len(fake.aborted) == 2  # their answers are no longer needed


def test_stale_samples_are_counted_where_they_are_not_refused(fake, make):
    engine = make(fake, refuse_stale=False)
    fake.faults = ["stale"]
    drawn = engine.generate(requests(1), SAMPLING)
    assert sorted(r.versions for r in drawn[0]) == [("0.0",)] * 3 + [("another",)]
    assert engine.take_metrics()["rollout/stale_samples"] == 1


def test_what_the_server_refuses_ends_the_run_with_its_words(fake, make):
    engine = make(fake)
    fake.faults = ["400"]
    with pytest.raises(ValueError, match="top_k must be -1"):
        engine.generate(requests(), SAMPLING)


def test_a_server_that_stays_broken_ends_the_run_resumable(fake, make):
    engine = make(fake)
    fake.faults = ["500"] * 1000
    with pytest.raises(EngineError, match=r"CUDA out of memory.*Run the same command again"):
        engine.generate(requests(1), SAMPLING)


def test_a_server_that_comes_back_gets_the_current_weights(make):
    with FakeServer(delay_s=20.0) as first:  # it is stopped before it answers
        engine = make(first)
        port, weights_before = first.port, first.weights
        timer = threading.Timer(0.1, lambda: first.__exit__())
        timer.start()
        second = FakeServer(port)
        threading.Timer(1.5, second.__enter__).start()
        drawn = engine.generate(requests(), SAMPLING)
    assert sum(map(len, drawn)) == 12
    assert second.weights == weights_before
    assert second.version == "0.0"
    assert engine.take_metrics()["rollout/server_recoveries"] >= 1
    second.__exit__()


def test_a_server_that_hangs_while_paused_is_continued(fake, make):
    engine = make(fake, patience=SHORT)
    fake.paused = True
    assert sum(map(len, engine.generate(requests(1), SAMPLING))) == 4


def test_several_servers_share_the_load_by_prompt(make):
    with FakeServer() as one, FakeServer() as two:
        drawn = make(one, two).generate(requests(4), SAMPLING)
        assert sum(map(len, drawn)) == 16
        prompts = [{prompt for _, prompt, _ in server.drawn} for server in (one, two)]
        assert [len(each) for each in prompts] == [2, 2]
        assert not prompts[0] & prompts[1]
        assert one.weights == two.weights


def test_new_weights_draw_anew_and_the_old_ones_as_before(fake, make):
    engine = make(fake)
    first = ids_of(engine.generate(requests(), SAMPLING))
    engine.load_params(weights(1.5), "0.1")
    second = ids_of(engine.generate(requests(), SAMPLING))
    engine.load_params(weights(), "0.2")
    assert ids_of(engine.generate(requests(), SAMPLING)) == first != second


def test_a_server_that_keeps_old_weights_is_found_out(fake, make):
    engine = make(fake)
    fake.sync_faults = ["unchanged"]
    with pytest.raises(SyncError, match="kept the old weights of"):
        engine.load_params(weights(1.5), "0.1")


def test_a_connection_that_the_server_may_close_is_not_used(fake, make):
    engine = make(fake)
    fake.keep_alive_s = 2.5
    time.sleep(2.6)  # a long update
    engine.generate(requests(1), SAMPLING)
    assert "rollout/request_retries" not in engine.take_metrics()


@pytest.mark.parametrize("first", ["lost", "restarted"])
def test_a_sync_whose_answer_is_lost_is_made_again(first, fake, make):
    engine = make(fake)
    fake.sync_faults = [first]
    engine.load_params(weights(1.5), "0.1")
    assert (fake.version, fake.paused) == ("0.1", False)
    assert fake.calls["update_weights_from_disk"] == 4  # the first weights, and these three times
    assert engine.take_metrics()["rollout/server_recoveries"] == 1


@pytest.mark.parametrize("first", ["unchanged, lost", "restarted"])
def test_old_weights_are_found_out_after_a_lost_answer_too(first, fake, make):
    engine = make(fake)
    fake.sync_faults = [first, "unchanged"]
    with pytest.raises(SyncError, match="kept the old weights of"):
        engine.load_params(weights(1.5), "0.1")


def test_equal_weights_need_not_change_anything(fake, make):
    engine = make(fake)
    engine.load_params(weights(), "0.1")
    assert engine.take_metrics()["sync/bytes"] > 1e6


def test_a_refused_sync_ends_the_run_and_leaves_the_server_running(fake, make):
    engine = make(fake)
    fake.sync_faults = ["400"]
    with pytest.raises(ValueError, match="Failed to get weights"):
        engine.load_params(weights(1.5), "0.1")
    assert not fake.paused


def test_old_files_are_removed(fake, make, tmp_path):
    engine = make(fake)
    for step in range(4):
        engine.load_params(weights(1 + step), f"0.{step}")
        assert len(list(tmp_path.glob("*/weights-*"))) <= 2
    engine.close()
    assert not list(tmp_path.glob("selfreg-weights-*"))


def test_no_room_is_said_before_anything_is_written(fake, make, monkeypatch):
    engine = make(fake, load=False)
    usage = __import__("shutil").disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="sync_folder"):
        engine.load_params(weights(), "0.0")


def test_a_colocated_server_gives_its_memory_in_turns(fake, make):
    engine = make(fake, colocated=True)
    engine.generate(requests(1), SAMPLING)
    for _ in range(2):
        engine.release()
    engine.load_params(weights(), "0.1")
    assert fake.calls["release_memory_occupation"] == fake.calls["resume_memory_occupation"] == 1


def test_prompts_that_would_kill_the_server_are_refused(fake, make):
    engine = make(fake)
    for ids in ([], [5, POLICY.config.vocab_size], [-1]):
        with pytest.raises(ValueError, match="ids outside"):
            engine.generate([Request(np.array(ids, np.int32), np.array([1], np.uint32))], SAMPLING)
    assert not fake.drawn


def test_nobody_at_the_address(make, tmp_path):
    class Nobody:
        url = "http://127.0.0.1:9"

    patience = Patience(ready_s=1.5)
    started = time.monotonic()
    with pytest.raises(EngineError, match="check that it is running"):
        make(Nobody, patience=patience)
    assert time.monotonic() - started < 5


def test_a_thousand_completions_are_in_flight_at_once():
    # One after another, they would take 100 s.
    with FakeServer(delay_s=0.1) as server:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            sync = WeightSync(POLICY.config, dtype="float32", parent=Path(folder))
            engine = SGLangEngine(POLICY, [server.url], sync)
            engine.load_params(weights(), "0.0")
            started = time.monotonic()
            drawn = engine.generate(requests(10, 100), SAMPLING)
            assert time.monotonic() - started < 30
            assert len(server.drawn) == sum(map(len, drawn)) == 1000
            engine.close()


def shape(value):
    """Replace values by their types, and keep the keys."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


def test_the_fake_answers_as_the_real_server_did(fake):
    import json
    import urllib.request

    def ask(path, body):
        data = json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(fake.url + path, data)) as reply:
            return json.loads(reply.read() or b"null")

    real = recorded()
    plain = generate_body(np.array([5, 6]), 3, SAMPLING, POLICY.stop_ids, "a")
    rich = plain | {"top_logprobs_num": 2}
    asked = {
        "generate": ("/generate", plain),
        "generate_alternatives": ("/generate", rich),
        "model_info": ("/model_info", {}),
        "checksums": ("/weights_checker", {"action": "checksum"}),
        "pause": ("/pause_generation", {"mode": "retract"}),
        "continue": ("/continue_generation", {}),
        "sync": ("/update_weights_from_disk", {"model_path": str(TINY), "weight_version": "1"}),
        "release": ("/release_memory_occupation", {}),
        "resume": ("/resume_memory_occupation", {}),
    }
    for name, (path, body) in asked.items():
        got = shape(ask(path, body))
        wanted = shape(real[name]["reply"])
        if name.startswith("generate"):  # the finish reason decides which of two keys exists
            assert got["meta_info"].pop("finish_reason").keys() in (
                {"type", "length"},
                {"type", "matched"},
            )
            wanted["meta_info"].pop("finish_reason")
        assert got == wanted, name


@pytest.mark.parametrize("name", ["generate", "generate_alternatives"])
def test_recorded_answers_are_read(name):
    alternatives = 2 if name == "generate_alternatives" else 0
    sampling = Sampling(0.7, 1.0, 0, 5, alternatives)
    reply = recorded()[name]["reply"]
    answer = read_answer(reply, sampling, POLICY.config.vocab_size)
    assert answer.ids.tolist() == reply["output_ids"]
    assert answer.versions == ("default",)
    assert np.all(answer.logprobs <= 0)
    assert answer.alter_ids.shape == (5, alternatives)


def test_a_recorded_abort_is_no_answer():
    reply = recorded()["generate_aborted"]["reply"]
    with pytest.raises(ServerLostError, match="aborted"):
        read_answer(reply, Sampling(0.7, 1.0, 0, 2000), POLICY.config.vocab_size)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: r.pop("output_ids"), "invalid answer to /generate"),
        (lambda r: r["meta_info"].update(output_token_logprobs=None), "invalid answer to /gen"),
        (lambda r: r["output_ids"].append(3), "6 tokens of at most 5"),
        (lambda r: r["output_ids"].__setitem__(0, 3), "logprobs for"),
        (
            lambda r: r["meta_info"]["output_token_logprobs"][0].__setitem__(0, None),
            "invalid logprob",
        ),
        (lambda r: r["meta_info"].update(weight_versions=[]), "no weight version"),
    ],
)
def test_a_spoiled_answer_is_named(spoil, words):
    reply = recorded()["generate"]["reply"]
    spoil(reply)
    with pytest.raises(ServerLostError, match=words):
        read_answer(reply, Sampling(0.7, 1.0, 0, 5), POLICY.config.vocab_size)
