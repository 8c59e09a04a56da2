"""A language model that answers a control's question, over any OpenAI-compatible endpoint.

vLLM, SGLang (the rollout server itself, too) and the hosted models all serve it. An answer that
does not come is recorded as such: the control then decides without one.
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
MOST_BYTES = 2**22  # of a reply; a longer one is none


def ask(settings: Any, question: str) -> Answer:
    """Ask once, at temperature 0.

    Args:
      settings: The config's section `control`: llm_url (such as http://127.0.0.1:30000/v1),
        llm_model, llm_timeout_s, llm_max_tokens. A key, where one is needed, is read from
        SELFREG_LLM_KEY, which no file of the run keeps.
      question: The whole prompt.

    Returns:
      The answer, or what went wrong.
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
        return answer(error="config.control.llm_url is empty: nobody was asked")
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        timeout_s = settings["llm_timeout_s"]
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            reply = json.loads(_read(response, begun + timeout_s))
        text = reply["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise TypeError(f"content={text!r} is no text")
        return answer(text, tokens=_tokens(reply))
    except urllib.error.HTTPError as error:
        return answer(error=f"{url} answered {error.code}: {_excerpt(error)}")
    except (
        OSError,
        http.client.HTTPException,  # a reply that breaks off
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,  # JSON nested too deeply
    ) as error:
        return answer(error=f"{url}: {error!r}")


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, if it is there in time: the socket's timeout bounds each wait, not their sum."""
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
    """Prompt and completion tokens; 0 where the server does not count them."""
    usage = reply.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
