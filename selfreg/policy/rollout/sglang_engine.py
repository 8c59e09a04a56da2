"""The engine that draws completions from SGLang servers, over HTTP only.

Every completion wanted is a slot, and one request of its own: a slot is filled once, whatever was
sent for it before, so that retries neither drop nor double a sample. The completions of a prompt go
to one server, whose prefix cache then holds the prompt. A server that is lost is started again, or
waited for, given the current weights, and asked for the slots that are still empty.
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
    """How long the engine waits, and how often it tries.

    Attributes:
      request_s: For one completion, queueing included.
      ready_s: For a server that starts or comes back.
      sync_s: For a server to take new weights.
      attempts: Of a completion at a server that is there.
      recoveries: Of lost servers, within one call.
      in_flight: Requests sent at once, over all servers.
    """

    request_s: float = 600.0
    ready_s: float = 900.0
    sync_s: float = 600.0
    attempts: int = 3
    recoveries: int = 3
    in_flight: int = 4096


@dataclass
class _Slot:
    """A completion that is wanted, and its answer once there is one."""

    request: Request
    seed: int
    prompt: int
    answer: Answer | None = None
    error: Exception | None = None


@dataclass
class _Counts:
    """What went other than planned, since the last `take_metrics`."""

    events: Counter[str] = field(default_factory=Counter)
    values: dict[str, float] = field(default_factory=dict)


class SGLangEngine:
    """An Engine that owns no accelerator of its own."""

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
        """Wait until every server is there.

        Args:
          policy: Tokenizer, stop tokens and vocabulary.
          urls: Of servers that hold the same model; each completion is drawn by one of them.
          sync: Writes weights where the servers read them.
          patience: Bounds.
          launched: The servers that this process started, which it starts again when they end.
          refuse_stale: Draw a completion again when other weights than the current drew any of its
            tokens; otherwise only count it.
          colocated: The servers give their memory to the trainer between `release` and the next
            `load_params`.

        Raises:
          EngineError: A server does not come up in time.
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
          EngineError: The servers do not take them, or are lost.
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
        """See Engine; servers warm themselves up."""

    def release(self) -> None:
        """Give the servers' memory to the trainer, if they share the accelerator."""
        if self._colocated and not self._released:
            with self._lock:
                self._recovering(lambda: self._post_all("/release_memory_occupation"))
                self._released = True

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[tuple[Rollout, ...]]:
        """See Engine. Completions are reproducible only as far as the server heeds seeds.

        Raises:
          EngineError: The servers cannot be brought back.
          ValueError: A prompt has a token outside of the vocabulary, or a server refuses a request.
        """
        if self._file is None:
            raise RuntimeError("load_params must be called before generate")
        for request in requests:
            ids = request.prompt_ids
            # SGLang 0.5 dies of such a token.
            if not len(ids) or ids.min() < 0 or ids.max() >= self._policy.config.vocab_size:
                raise ValueError(
                    f"a prompt has ids outside of [0, {self._policy.config.vocab_size}), or none"
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
        """What has happened since the last call: syncs, retries, restarts, stale samples."""
        counts, self._counts = self._counts, _Counts()
        return counts.values | {f"rollout/{name}": n for name, n in counts.events.items()}

    def close(self) -> None:
        """Stop the servers that were started here, and remove the weights."""
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
        """Do some work; where a server is lost meanwhile, bring it back and do the rest."""
        for left in reversed(range(self._patience.recoveries + 1)):
            try:
                self._run(work())
                return
            except ServerLostError as error:
                if not left:
                    raise EngineError(
                        f"the SGLang servers were lost {self._patience.recoveries + 1} times, at "
                        f"last: {error}. Run the same command again to resume"
                    ) from None
                _log.warning("a server was lost, and is brought back: %s", error)
                self._counts.events["server_recoveries"] += 1
                self._run(self._bring_back())
            except ServerRefusedError as error:
                raise ValueError(f"the SGLang server refuses: {error}") from None

    async def _ready(self) -> None:
        deadline = time.monotonic() + self._patience.ready_s
        for server in self._servers:
            while not await server.is_ready():
                for launched in self._launched:
                    launched.check()
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"no SGLang server answers at {server.url}/health within "
                        f"{self._patience.ready_s:g} s (config.sglang.ready_timeout_s): is "
                        "it started, and is the address right?"
                    )
                await asyncio.sleep(_LOOK_S)

    async def _bring_back(self) -> None:
        """Every server ready, and with the current weights."""
        for launched in self._launched:
            await launched.revive()
        for server in self._servers:
            # One that was lost while it was paused would hang for ever.
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
        """Fill the slots that are empty.

        Raises:
          ServerLostError: Some could not be filled.
          ServerRefusedError: A request is wrong.
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
                        f"{server.url} draws with weights {answer.versions}, not "
                        f"{self._file.version!r}: something else changes its weights"
                    )
                    continue
            slot.answer = answer
            return


async def _open_session(in_flight: int) -> aiohttp.ClientSession:
    # SGLang closes a connection that was idle for 5 s, which nobody here sees between two calls.
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
