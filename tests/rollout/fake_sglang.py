"""A fast substitute for an SGLang server, in a thread. It answers from recordings.

`sglang_recordings.json` holds the real server's answers, and `record_sglang.py` renews it. A test
compares every answer of the fake with the recording, by keys and types.
"""

import asyncio
import copy
import hashlib
import json
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from aiohttp import web
from safetensors import safe_open

RECORDINGS = Path(__file__).with_name("sglang_recordings.json")


def recorded():
    """Return the real server's answers, by the name of the exchange."""
    return json.loads(RECORDINGS.read_text())


class FakeServer:
    """Serves within a `with FakeServer() as server` block.

    Attributes:
      faults: Used in turn by /generate. None: a correct answer. Otherwise the kind of fault.
      sync_faults: The same for /update_weights_from_disk.
      keep_alive_s: A connection that was idle for longer is closed at its next request, as the real
        server's timer may do.
      calls: The number of requests for each path.
      drawn: The (rid, prompt, seed) of every completion that was answered.
    """

    def __init__(self, port=0, *, delay_s=0.0):
        self.faults, self.sync_faults, self.keep_alive_s = [], [], 5.0
        self._last_used = {}
        self.calls, self.drawn, self.aborted = Counter(), [], []
        self.version, self.paused, self.weights = "default", False, "none"
        self.port, self._delay_s = port, delay_s
        self._recorded = recorded()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def _serve(self, started):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main(started))

    async def _main(self, started):
        self._end = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path}", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        started.set()
        await self._end.wait()
        await runner.cleanup()

    async def _answer(self, request):
        path = request.match_info["path"]
        self.calls[path] += 1
        body = await request.json() if request.can_read_body else {}
        connection, now = request.transport, time.monotonic()
        if now - self._last_used.get(connection, now) > self.keep_alive_s:
            connection.close()
        try:
            return await getattr(self, f"_{path}")(body, request)
        finally:
            self._last_used[connection] = time.monotonic()

    def _recording(self, name):
        exchange = copy.deepcopy(self._recorded[name])
        return exchange["status"], exchange["reply"]

    def _reply(self, name):
        status, reply = self._recording(name)
        return web.json_response(reply, status=status)

    async def _health(self, body, request):
        if self.paused:
            await asyncio.sleep(60)
        return web.Response()

    async def _model_info(self, body, request):
        status, reply = self._recording("model_info")
        return web.json_response(reply | {"weight_version": self.version}, status=status)

    async def _weights_checker(self, body, request):
        status, reply = self._recording("checksums")
        for rank in reply["ranks"]:
            for name in rank["checksums"]:
                digest = hashlib.sha256(f"{name}{self.weights}".encode()).hexdigest()
                rank["checksums"][name] = digest[:16]
        return web.json_response(reply, status=status)

    async def _pause_generation(self, body, request):
        self.paused = True
        return self._reply("pause")

    async def _continue_generation(self, body, request):
        self.paused = False
        return self._reply("continue")

    async def _flush_cache(self, body, request):
        return web.Response(text="Cache flushed.\n")

    async def _abort_request(self, body, request):
        self.aborted.append(body["rid"])
        return web.Response()

    async def _release_memory_occupation(self, body, request):
        return self._reply("release")

    async def _resume_memory_occupation(self, body, request):
        return self._reply("resume")

    async def _update_weights_from_disk(self, body, request):
        fault = self.sync_faults.pop(0) if self.sync_faults else None
        files = sorted(Path(body["model_path"]).glob("*.safetensors"))
        if fault == "400" or not files:
            return self._reply("sync_refused")
        if fault == "hang":
            await asyncio.sleep(60)
        if fault == "restarted":
            self.version, self.weights, self.paused = "default", "none", False
            request.transport.close()
            return web.Response()
        if fault not in ("unchanged", "unchanged, lost"):
            self.weights = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
        with safe_open(files[0], framework="numpy") as opened:
            assert opened.keys()
        self.version = body["weight_version"]
        if fault in ("lost", "unchanged, lost"):
            request.transport.close()
        return self._reply("sync")

    async def _generate(self, body, request):
        fault = self.faults.pop(0) if self.faults else None
        while self.paused or fault == "hang":
            await asyncio.sleep(0.05)
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        if fault == "drop":
            request.transport.close()
        if fault == "400":
            return self._reply("generate_refused")
        if fault == "500":
            return web.Response(status=500, text="CUDA out of memory")
        if fault == "malformed":
            return web.Response(text='{"text": "abc')
        status, reply = self._recording(
            "generate_alternatives" if body["top_logprobs_num"] else "generate"
        )
        self._fill(body, reply)
        if fault == "short":
            reply["meta_info"]["output_token_logprobs"].pop()
        if fault == "abort":
            _, reply = self._recording("generate_aborted")
        if fault == "stale":
            reply["meta_info"]["weight_versions"][0]["version"] = "another"
        if fault is None:
            seed = body["sampling_params"]["sampling_seed"]
            self.drawn.append((body["rid"], tuple(body["input_ids"]), seed))
        return web.json_response(reply, status=status)

    def _fill(self, body, reply):
        """Return the tokens that a seed draws, a pure function of prompt, seed and weights."""
        parameters = body["sampling_params"]
        key = f"{body['input_ids']}{parameters['sampling_seed']}{self.weights}"
        generator = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
        length = int(generator.integers(1, parameters["max_new_tokens"] + 1))
        ids = [int(i) for i in generator.integers(2, 100, length)]
        if length < parameters["max_new_tokens"]:
            ids[-1] = parameters["stop_token_ids"][0]
        meta = reply["meta_info"]
        meta["id"] = body["rid"]
        meta["prompt_tokens"], meta["completion_tokens"] = len(body["input_ids"]), length
        meta["finish_reason"] = (
            {"type": "length", "length": length}
            if length == parameters["max_new_tokens"]
            else {"type": "stop", "matched": ids[-1]}
        )
        meta["output_token_logprobs"] = [[-0.5, i, None] for i in ids]
        meta["output_token_logprobs_length"] = length
        if body["top_logprobs_num"]:
            top = [[-0.1 - k, k + 2, None] for k in range(body["top_logprobs_num"])]
            meta["output_top_logprobs"] = [top] * length
        meta["weight_version"] = self.version
        meta["weight_versions"] = [{"version": self.version, "start": 0, "end": length}]
        reply["output_ids"] = ids
