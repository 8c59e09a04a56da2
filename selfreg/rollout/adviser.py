"""A language model that answers a control's question, over any OpenAI-compatible endpoint.

vLLM, SGLang (the rollout server itself, too) and the hosted models all serve it. An answer that
does not come is recorded as such: the control then decides without one.
"""

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from selfreg.records import Answer

KEY_VARIABLE = "SELFREG_LLM_KEY"


def ask(settings: Any, question: str) -> Answer:
    """Ask once, at temperature 0.

    Args:
      settings: The config's section `control`: llm_url (such as http://127.0.0.1:30000/v1),
        llm_model, llm_timeout_s. A key, where one is needed, is read from SELFREG_LLM_KEY, which
        no file of the run keeps.
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

    def answer(text: str = "", error: str = "", usage: Any = None) -> Answer:
        usage = usage or {}
        return Answer(
            text, error, question, body["model"],
            int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)),
            time.monotonic() - begun,
        )  # fmt: skip

    if not settings["llm_url"]:
        return answer(error="config.control.llm_url is empty: nobody was asked")
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=settings["llm_timeout_s"]) as response:
            reply = json.load(response)
        return answer(str(reply["choices"][0]["message"]["content"]), usage=reply.get("usage"))
    except urllib.error.HTTPError as error:
        return answer(error=f"{url} answered {error.code}: {error.read(200)!r}")
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        return answer(error=f"{url}: {error!r}")
