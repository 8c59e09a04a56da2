"""Ask a language model a control's question, over any OpenAI-compatible endpoint.

vLLM, SGLang (including the rollout server) and hosted models all offer such an endpoint. A missing
answer is recorded as missing, and the control then decides without it.
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from selfreg.run.records import Answer

KEY_VARIABLE = "SELFREG_LLM_KEY"
MOST_BYTES = 2**22  # a longer reply is an error


def ask(settings: Any, question: str) -> Answer:
    """Ask once, at temperature 0.

    Args:
      settings: The config's section `control`: llm_url (such as http://127.0.0.1:30000/v1),
        llm_model, llm_timeout_s and llm_max_tokens. An API key, if the endpoint needs one, is read
        from $SELFREG_LLM_KEY. No file of the run stores it.
      question: The whole prompt.

    Returns:
      The answer, or an Answer whose `error` says what went wrong.
    """
    begun = time.monotonic()
    body = {
        "model": settings["llm_model"],
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": settings["llm_max_tokens"],
    }
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY_VARIABLE):
        headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
    url = settings["llm_url"].rstrip("/") + "/chat/completions"

    def answer(text: str = "", error: str = "", tokens: tuple[int, int] = (0, 0)) -> Answer:
        time_s = time.monotonic() - begun
        return Answer(text, error, question, body["model"], *tokens, time_s)

    if not settings["llm_url"]:
        return answer(error="config.control.llm_url is empty: no model was asked")
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        timeout_s = settings["llm_timeout_s"]
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            reply = json.loads(_read(response, begun + timeout_s))
        text = reply["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise TypeError(f"content={text!r} is not text")
        return answer(text, tokens=_tokens(reply))
    except urllib.error.HTTPError as error:
        return answer(error=f"{url} answered {error.code}: {_excerpt(error)}")
    except (
        OSError,
        http.client.HTTPException,  # a truncated reply
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,  # JSON nested too deeply
    ) as error:
        return answer(error=f"{url}: {error!r}")


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """Read the body before the deadline. The socket's timeout bounds each wait, not their sum."""
    read = b""
    while part := response.read1(2**16):
        read += part
        if time.monotonic() > deadline:
            raise TimeoutError("the answer is too slow")
        if len(read) > MOST_BYTES:
            raise ValueError(f"a reply of more than {MOST_BYTES} bytes")
    return read


def _excerpt(error: urllib.error.HTTPError) -> str:
    try:
        return repr(error.read(200))
    except (OSError, http.client.HTTPException):
        return error.reason


def _tokens(reply: Any) -> tuple[int, int]:
    """Return the counts of prompt and completion tokens, or 0 if the server does not give them."""
    usage = reply.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
