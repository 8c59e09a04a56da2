"""An HTTP client for one SGLang server. It sends requests and checks the answers.

The JSON format is SGLang 0.5's. Logprobs are log_softmax(logits / temperature) before top-p and
top-k renormalize, as in `records.Rollout`. Greedy decoding is requested as top-k 1 at temperature
1, so that its logprobs are the model's.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from selfreg.run.records import FinishReason, Sampling

_QUICK_S = 30.0  # for requests that a server answers at once
_SHOWN = 300


class ServerLostError(Exception):
    """The server is gone, hangs, or sent an invalid answer. A retry may help."""


class ServerRefusedError(Exception):
    """The server rejected the request as wrong. A retry would not help."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion as the server drew it.

    Attributes:
      ids: int32 [length], including the stop token if there is one.
      logprobs: float32 [length].
      alter_ids: int32 [length, A].
      alter_logprobs: float32 [length, A].
      finish_reason: Why the completion ended.
      versions: The versions of the weights that drew it, in order.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    alter_ids: np.ndarray
    alter_logprobs: np.ndarray
    finish_reason: FinishReason
    versions: tuple[str, ...]


def generate_body(
    prompt_ids: np.ndarray, seed: int, sampling: Sampling, stop_ids: tuple[int, ...], rid: str
) -> dict[str, Any]:
    """Return the body of POST /generate for one completion.

    Args:
      prompt_ids: int32 [prompt length].
      seed: Only a server with --enable-deterministic-inference uses it.
      sampling: How to draw.
      stop_ids: Tokens that end a completion.
      rid: The request's name, by which it can be aborted.
    """
    greedy = sampling.temperature == 0
    return {
        "rid": rid,
        "input_ids": prompt_ids.tolist(),
        "return_logprob": True,
        "top_logprobs_num": sampling.num_alter_tokens,
        "sampling_params": {
            "temperature": 1.0 if greedy else sampling.temperature,
            "top_p": 1.0 if greedy else sampling.top_p,
            "top_k": 1 if greedy else sampling.top_k or -1,
            "max_new_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(stop_ids),
            "sampling_seed": int(seed) & 0x7FFFFFFF,
            # A completion must not end where its text merely spells out a stop token.
            "skip_special_tokens": False,
        },
    }


def read_answer(reply: Any, sampling: Sampling, vocab_size: int) -> Answer:
    """Check a server's answer to one `generate_body`.

    Raises:
      ServerLostError: The request was aborted, or the answer is invalid. The message says how.
    """
    try:
        meta = reply["meta_info"]
        reason = meta["finish_reason"]["type"]
        triples = meta["output_token_logprobs"]
        ids = np.array(reply["output_ids"], np.int64)
        logprobs = np.array([triple[0] for triple in triples], np.float32)
        named = [triple[1] for triple in triples]
        versions = tuple(str(span["version"]) for span in meta["weight_versions"])
        wanted = sampling.num_alter_tokens
        tops = meta["output_top_logprobs"] if wanted else [[]] * len(ids)
        alter_ids = np.array([[t[1] for t in top[:wanted]] for top in tops], np.int32)
        alter_logprobs = np.array([[t[0] for t in top[:wanted]] for top in tops], np.float32)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        shown = json.dumps(reply)[:_SHOWN]
        raise ServerLostError(f"invalid answer to /generate ({error!r}): {shown}") from None
    if reason == "abort":
        raise ServerLostError(f"the request was aborted: {meta['finish_reason'].get('message')}")
    faults = {
        f"finish reason {reason!r}": reason not in ("stop", "length"),
        f"{len(ids)} tokens of at most {sampling.max_new_tokens}": not (
            0 < len(ids) <= sampling.max_new_tokens
        ),
        f"{len(logprobs)} logprobs for {len(ids)} tokens": named != ids.tolist(),
        "a token outside of the vocabulary": ids.size
        and not 0 <= ids.min() <= ids.max() < vocab_size,
        "an invalid logprob": not np.all(np.isfinite(logprobs) & (logprobs <= 1e-3)),
        f"alternatives of shape {alter_ids.shape}": alter_ids.shape != (len(ids), wanted),
        "no weight version": not versions,
    }
    if wrong := [words for words, holds in faults.items() if holds]:
        raise ServerLostError(f"an answer to /generate with {', '.join(wrong)}")
    return Answer(
        ids.astype(np.int32),
        logprobs,
        alter_ids,
        alter_logprobs,
        FinishReason.STOP if reason == "stop" else FinishReason.LENGTH,
        versions,
    )


@dataclass(frozen=True, slots=True)
class Held:
    """The weights that a server held before it was sent some files.

    Attributes:
      files: The folder that it was sent then.
      version: The version of the weights that it held.
      checksums: For each tensor parallel rank, the checksums of its tensors.
    """

    files: Path
    version: str
    checksums: list[dict[str, str]]


class Server:
    """A client of one SGLang server. All calls must come from the same event loop.

    Attributes:
      url: The server's URL, without a trailing slash.
      held_before: The weights that it held before the last ones it was sent. weight_sync sets it.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        """Store the URL and the session, without contacting the server."""
        self.url = url.rstrip("/")
        self.held_before: Held | None = None
        self._session = session

    async def post(self, path: str, body: Mapping[str, Any], timeout_s: float = _QUICK_S) -> Any:
        """POST a JSON body and return the parsed answer, or None if it is not JSON.

        Raises:
          ServerLostError: No answer in time, a broken connection, or a failure of the server.
          ServerRefusedError: The server rejected the request as wrong.
        """
        return await self._call("POST", path, timeout_s, json=body)

    async def get(self, path: str, timeout_s: float = _QUICK_S) -> Any:
        """GET a path. See `post`."""
        return await self._call("GET", path, timeout_s)

    async def _call(self, method: str, path: str, timeout_s: float, **given: Any) -> Any:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, self.url + path, timeout=timeout, **given
            ) as reply:
                status, text = reply.status, await reply.text(errors="replace")
        except TimeoutError:
            raise ServerLostError(f"{self.url}{path}: no answer in {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ServerLostError(f"{self.url}{path}: {error or type(error).__name__}") from None
        if 400 <= status < 500:
            raise ServerRefusedError(f"{self.url}{path}: {status} {text[:_SHOWN]}")
        if status != 200:
            raise ServerLostError(f"{self.url}{path}: {status} {text[:_SHOWN]}")
        try:
            return json.loads(text)
        except ValueError:
            if path == "/generate":
                raise ServerLostError(f"{self.url}{path}: {text[:_SHOWN]!r} is not JSON") from None
            return None  # /health and /flush_cache answer in plain text

    async def is_ready(self) -> bool:
        """Return whether it can generate. A server that is loading or paused cannot."""
        try:
            await self.get("/health", timeout_s=5.0)
        except (ServerLostError, ServerRefusedError):
            return False
        return True

    async def abort(self, rid: str) -> None:
        """Try to stop a request whose answer is no longer needed."""
        try:
            await self.post("/abort_request", {"rid": rid}, timeout_s=5.0)
        except (ServerLostError, ServerRefusedError, asyncio.CancelledError):
            return

    async def version(self) -> str:
        """Return the version of the weights that it holds.

        Raises:
          ServerLostError: The server gives no version.
        """
        reply = await self.get("/model_info")
        if not isinstance(reply, dict) or not isinstance(reply.get("weight_version"), str):
            raise ServerLostError(f"{self.url}/model_info: {json.dumps(reply)[:_SHOWN]}")
        return reply["weight_version"]

    async def checksums(self) -> list[dict[str, str]]:
        """Return, for each tensor parallel rank, a checksum of every weight by the server's names.

        Raises:
          ServerLostError: The server gives no checksums.
        """
        reply = await self.post("/weights_checker", {"action": "checksum"}, timeout_s=120.0)
        try:
            return [dict(rank["checksums"]) for rank in reply["ranks"]]
        except (KeyError, TypeError, ValueError):
            shown = json.dumps(reply)[:_SHOWN]
            raise ServerLostError(f"{self.url}/weights_checker: {shown}") from None
