"""An engine that draws completions from SGLang servers over HTTP.

Each completion has its own slot and its own request. A slot is filled exactly once, however often
its request was sent, so retries neither drop nor duplicate a sample. All completions of a prompt go
to the same server, whose prefix cache then holds the prompt. If a server is lost, the engine
restarts it or waits for it, sends it the current weights, and requests the slots that are still
empty.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from selfreg.policy.models.policy import Policy
from selfreg.policy.rollout.engine import EngineError
from selfreg.policy.rollout.sglang_client import (
    Answer,
    Server,
    ServerLostError,
    ServerRefusedError,
    generate_body,
    read_answer,
)
from selfreg.policy.rollout.sglang_launch import Launched
from selfreg.policy.rollout.weight_sync import WeightFiles, WeightSync, send
from selfreg.run.records import Request, Rollout, Sampling

_log = logging.getLogger(__name__)
_LOOK_S = 1.0
_IDLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Timeouts and limits on retries.

    Attributes:
      request_s: Timeout for one completion, including its time in the queue.
      ready_s: Timeout for a server to start or come back.
      sync_s: Timeout for a server to load new weights.
      attempts: Maximum number of attempts at one completion while its server is reachable.
      recoveries: Maximum number of recoveries from lost servers within one call.
      in_flight: Maximum number of concurrent requests over all servers.
    """

    request_s: float = 600.0
    ready_s: float = 900.0
    sync_s: float = 600.0
    attempts: int = 3
    recoveries: int = 3
    in_flight: int = 4096


@dataclass
class _Slot:
    """A requested completion, and its answer once it has arrived."""

    request: Request
    seed: int
    prompt: int
    answer: Answer | None = None
    error: Exception | None = None


@dataclass
class _Counts:
    """Counts of retries and other events, and metrics of syncs, since the last `take_metrics`."""

    events: Counter[str] = field(default_factory=Counter)
    values: dict[str, float] = field(default_factory=dict)


class SGLangEngine:
    """An Engine that draws completions from SGLang servers and uses no accelerator itself."""

    def __init__(
        self,
        policy: Policy,
        urls: Sequence[str],
        sync: WeightSync,
        *,
        patience: Patience = Patience(),
        launched: Sequence[Launched] = (),
        refuse_stale: bool = True,
        colocated: bool = False,
    ):
        """Make an engine and wait until every server is ready.

        Args:
          policy: Gives the tokenizer, the stop tokens and the vocabulary's size.
          urls: The URLs of servers that hold the same model. One of them draws each completion.
          sync: Writes weights where the servers read them.
          patience: Timeouts and limits on retries.
          launched: The servers that this process started. It restarts them if one is lost.
          refuse_stale: If weights other than the current ones drew any of a completion's tokens,
            draw it again. Otherwise only count it.
          colocated: The servers give their memory to the trainer between `release` and the next
            `load_params`.

        Raises:
          EngineError: A server is not ready in time.
        """
        self._policy, self._sync, self._patience = policy, sync, patience
        self._launched = tuple(launched)
        self._refuse_stale, self._colocated, self._released = refuse_stale, colocated, False
        self._file: WeightFiles | None = None
        self._counts = _Counts()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._session = self._run(_open_session(patience.in_flight))
        self._servers = [Server(url, self._session) for url in urls]
        self._calls = 0
        self._run(self._ready())

    def load_params(self, params: Any, version: str = "0") -> None:
        """See Engine.

        Raises:
          EngineError: The servers do not load them, or are lost.
        """
        with self._lock:
            started = time.perf_counter()
            self._file = self._sync.write(params, version)
            written_s = time.perf_counter() - started
            self._recovering(self._take_weights)
            self._released = False
            self._counts.values |= {
                "sync/bytes": float(self._file.bytes),
                "sync/write_s": written_s,
                "sync/load_s": time.perf_counter() - started - written_s,
            }

    def warm_up(self, calls: Iterable[Sequence[int]], group: int, sampling: Sampling) -> None:
        """See Engine. Servers warm themselves up."""

    def release(self) -> None:
        """Give the servers' memory to the trainer, if they share the accelerator."""
        if self._colocated and not self._released:
            with self._lock:
                self._recovering(lambda: self._post_all("/release_memory_occupation"))
                self._released = True

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[tuple[Rollout, ...]]:
        """See Engine. Completions are reproducible only as far as the servers respect seeds.

        Raises:
          EngineError: The servers are lost and cannot be recovered.
          ValueError: A prompt is empty or has a token outside the vocabulary, or a server rejects a
            request.
        """
        if self._file is None:
            raise RuntimeError("load_params must be called before generate")
        for request in requests:
            ids = request.prompt_ids
            # A token outside the vocabulary crashes SGLang 0.5.
            if not len(ids) or ids.min() < 0 or ids.max() >= self._policy.config.vocab_size:
                raise ValueError(
                    f"a prompt is empty or has ids outside [0, {self._policy.config.vocab_size})"
                )
        slots = [
            _Slot(request, int(seed), prompt)
            for prompt, request in enumerate(requests)
            for seed in request.seeds
        ]
        with self._lock:
            self._calls += 1
            self._recovering(lambda: self._fill(slots, sampling))
        texts = self._policy.tokenizer.batch_decode(
            [_answer(slot).ids for slot in slots], skip_special_tokens=True
        )
        rollouts = iter(
            _rollout(slot, text, sampling) for slot, text in zip(slots, texts, strict=True)
        )
        return [tuple(next(rollouts) for _ in request.seeds) for request in requests]

    def take_metrics(self) -> dict[str, float]:
        """Return the metrics since the last call: syncs, retries, restarts and stale samples."""
        counts, self._counts = self._counts, _Counts()
        return counts.values | {f"rollout/{name}": n for name, n in counts.events.items()}

    def close(self) -> None:
        """Stop the servers that this process started, and remove the written weights."""
        if self._loop.is_closed():
            return
        self._loop.run_until_complete(self._session.close())
        self._loop.close()
        for server in self._launched:
            server.stop()
        self._sync.close()

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def _recovering(self, work: Callable[[], Any]) -> None:
        """Run `work`. If a server is lost meanwhile, recover it and run `work` again."""
        for left in reversed(range(self._patience.recoveries + 1)):
            try:
                self._run(work())
                return
            except ServerLostError as error:
                if not left:
                    raise EngineError(
                        f"the SGLang servers were lost {self._patience.recoveries + 1} times. The "
                        f"last error: {error}. Run the same command again to resume"
                    ) from None
                _log.warning("a server was lost and is being recovered: %s", error)
                self._counts.events["server_recoveries"] += 1
                self._run(self._bring_back())
            except ServerRefusedError as error:
                raise ValueError(f"the SGLang server rejects a request: {error}") from None

    async def _ready(self) -> None:
        deadline = time.monotonic() + self._patience.ready_s
        for server in self._servers:
            while not await server.is_ready():
                for launched in self._launched:
                    launched.check()
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"no SGLang server answered at {server.url}/health within "
                        f"{self._patience.ready_s:g} s (config.sglang.ready_timeout_s): check that "
                        "it is running and that the address is right"
                    )
                await asyncio.sleep(_LOOK_S)

    async def _bring_back(self) -> None:
        """Restart the launched servers, wait until all are ready, and send the current weights."""
        for launched in self._launched:
            await launched.revive()
        for server in self._servers:
            # A server that was lost while paused would stay paused forever.
            try:
                await server.post("/continue_generation", {})
            except (ServerLostError, ServerRefusedError):
                continue
        await self._ready()
        if self._file is not None:
            try:
                await self._send_all()
            except (ServerLostError, ServerRefusedError) as error:
                _log.warning("lost again: %s", error)

    async def _take_weights(self) -> None:
        if self._released:
            await self._post_all("/resume_memory_occupation")
        await self._send_all()

    async def _post_all(self, path: str) -> None:
        await asyncio.gather(
            *(server.post(path, {}, self._patience.sync_s) for server in self._servers)
        )

    async def _send_all(self) -> None:
        assert self._file is not None
        await asyncio.gather(
            *(send(server, self._file, self._patience.sync_s) for server in self._servers)
        )

    async def _fill(self, slots: Sequence[_Slot], sampling: Sampling) -> None:
        """Fill the slots that are still empty.

        Raises:
          ServerLostError: Some slots could not be filled.
          ServerRefusedError: A server rejected a request as wrong.
        """
        empty = [slot for slot in slots if slot.answer is None]
        await asyncio.gather(
            *(self._draw(slot, number, sampling) for number, slot in enumerate(empty))
        )
        errors = [slot.error for slot in empty if slot.answer is None and slot.error is not None]
        for kind in (ServerRefusedError, ServerLostError):
            for error in errors:
                if isinstance(error, kind):
                    raise error

    async def _draw(self, slot: _Slot, number: int, sampling: Sampling) -> None:
        server = self._servers[slot.prompt % len(self._servers)]
        assert self._file is not None
        for attempt in range(self._patience.attempts):
            rid = f"{self._calls}-{number}-{attempt}-{slot.seed}"
            body = generate_body(
                slot.request.prompt_ids, slot.seed, sampling, self._policy.stop_ids, rid
            )
            try:
                reply = await server.post("/generate", body, self._patience.request_s)
                answer = read_answer(reply, sampling, self._policy.config.vocab_size)
            except ServerRefusedError as error:
                slot.error = error
                return
            except ServerLostError as error:
                slot.error = error
                self._counts.events["request_retries"] += 1
                await server.abort(rid)
                continue
            if set(answer.versions) != {self._file.version}:
                self._counts.events["stale_samples"] += 1
                if self._refuse_stale:
                    slot.error = ServerLostError(
                        f"{server.url} drew with weights {answer.versions}, not "
                        f"{self._file.version!r}: another client changes its weights"
                    )
                    continue
            slot.answer = answer
            return


async def _open_session(in_flight: int) -> aiohttp.ClientSession:
    # SGLang closes connections that were idle for 5 s. The event loop does not run between calls
    # and would not notice, so idle connections are dropped earlier.
    connector = aiohttp.TCPConnector(limit=in_flight, keepalive_timeout=_IDLE_S)
    return aiohttp.ClientSession(connector=connector)


def _answer(slot: _Slot) -> Answer:
    assert slot.answer is not None
    return slot.answer


def _rollout(slot: _Slot, text: str, sampling: Sampling) -> Rollout:
    answer = _answer(slot)
    has_alternatives = sampling.num_alter_tokens > 0
    return Rollout(
        prompt_ids=slot.request.prompt_ids,
        completion_ids=answer.ids,
        logprobs=answer.logprobs,
        text=text,
        finish_reason=answer.finish_reason,
        alter_ids=answer.alter_ids if has_alternatives else None,
        alter_logprobs=answer.alter_logprobs if has_alternatives else None,
        versions=answer.versions,
    )
