"""Renew sglang_recordings.json: python -m tests.rollout.record_sglang

This starts the real server (tests/sglang_cpu) on the tiny policy, sends the engine's requests, and
records the answers.
"""

import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from selfreg.policy.models.policy import TINY
from selfreg.policy.rollout.sglang_launch import Launched, LaunchSettings
from tests.rollout.fake_sglang import RECORDINGS
from tests.sglang_cpu import server

PORT = 31777
SAMPLING = {"temperature": 0.7, "top_p": 1.0, "top_k": -1, "max_new_tokens": 5, "sampling_seed": 3,
            "stop_token_ids": [1], "skip_special_tokens": False}  # fmt: skip


def ask(path, body=None):
    """Record one exchange."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}", data, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            status, text = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    try:
        return {"path": path, "status": status, "reply": json.loads(text or b"null")}
    except ValueError:
        return {"path": path, "status": status, "reply": text.decode()}


def generate(**changes):
    body = {"input_ids": [5, 6, 7], "return_logprob": True, "top_logprobs_num": 0, "rid": "a",
            "sampling_params": SAMPLING}  # fmt: skip
    return ask("/generate", body | changes)


def aborted():
    """Abort a long request while it is running."""
    found = {}
    long = SAMPLING | {"max_new_tokens": 1500, "stop_token_ids": [], "ignore_eos": True}
    thread = threading.Thread(
        target=lambda: found.update(generate(rid="long", sampling_params=long))
    )
    thread.start()
    time.sleep(0.5)
    ask("/abort_request", {"rid": "long"})
    thread.join()
    return found


def record():
    """Make every exchange, by name."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        weights.write_bytes((TINY / "model.safetensors").read_bytes())
        update = {"model_path": folder, "weight_version": "7", "flush_cache": True,
                  "abort_all_requests": False}  # fmt: skip
        return {
            "generate": generate(),
            "generate_alternatives": generate(top_logprobs_num=2),
            "generate_aborted": aborted(),
            "generate_refused": generate(sampling_params=SAMPLING | {"top_k": 0}),
            "model_info": ask("/model_info"),
            "checksums": ask("/weights_checker", {"action": "checksum"}),
            "pause": ask("/pause_generation", {"mode": "retract"}),
            "flush": ask("/flush_cache", {}),
            "sync": ask("/update_weights_from_disk", update),
            "sync_refused": ask("/update_weights_from_disk", update | {"model_path": "/nowhere"}),
            "continue": ask("/continue_generation", {}),
            "abort": ask("/abort_request", {"rid": "nobody"}),
            "release": ask("/release_memory_occupation", {}),
            "resume": ask("/resume_memory_occupation", {}),
        }


def main():
    log = Path(tempfile.gettempdir()) / "sglang_recording.log"
    settings = LaunchSettings(
        server.python(), str(TINY), "float32", PORT, 1, 0.0, "", server.OPTIONS,
        server.ENVIRONMENT, log,
    )  # fmt: skip
    launched = Launched(settings)
    launched.start()
    try:
        for _ in range(300):
            launched.check()
            try:
                if ask("/health")["status"] == 200:
                    break
            except OSError:
                pass
            time.sleep(1)
        text = json.dumps(record(), indent=1).replace(str(TINY), "/models/tiny")
        RECORDINGS.write_text(text + "\n")
    finally:
        launched.stop()


if __name__ == "__main__":
    main()
