"""Asking a language model over HTTP: a real local server that answers correctly, or does not."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from selfreg.policy.rollout import adviser


def reply(content, **more):
    return {"choices": [{"message": {"role": "assistant", "content": content}}], **more}


class Handler(BaseHTTPRequestHandler):
    """Runs the server's `act`, and stores the requests."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), json.loads(body)))
        self.server.act(self)

    def send(self, status, body, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def ask(monkeypatch):
    """Ask a server that runs `act` on each request. `ask.seen` holds the requests."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(adviser.KEY_VARIABLE, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def asked(act: Callable[[Handler], None], timeout_s: float = 20.0, path: str = "/v1"):
        server.act = act
        settings = {
            "llm_url": f"http://127.0.0.1:{server.server_port}{path}", "llm_model": "a-model",
            "llm_timeout_s": timeout_s, "llm_max_tokens": 99,
        }  # fmt: skip
        return adviser.ask(settings, "What next?")

    asked.seen = server.seen
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def answers(value):
    return lambda handler: handler.send(200, json.dumps(value).encode())


def test_an_answer_with_its_cost(ask):
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    answer = ask(answers(reply('{"lr_factor": 1}', usage=usage)), path="/v1/")
    assert (answer.text, answer.error) == ('{"lr_factor": 1}', "")
    assert (answer.question, answer.model) == ("What next?", "a-model")
    assert (answer.prompt_tokens, answer.completion_tokens) == (12, 3)
    assert 0 < answer.time_s < 20
    ((path, headers, body),) = ask.seen
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert body == {
        "model": "a-model", "messages": [{"role": "user", "content": "What next?"}],
        "temperature": 0, "max_tokens": 99,
    }  # fmt: skip


def test_the_key_goes_to_the_server_and_nowhere_else(ask, monkeypatch):
    monkeypatch.setenv(adviser.KEY_VARIABLE, "secret")
    answer = ask(lambda handler: handler.send(401, b"no"))
    assert ask.seen[0][1]["Authorization"] == "Bearer secret"
    assert "secret" not in repr(answer)


@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {"prompt_tokens": None}}])
def test_a_server_that_counts_nothing(ask, usage):
    answer = ask(answers(reply("yes", **usage)))
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("yes", 0, 0)


@pytest.mark.parametrize(
    "value",
    [
        {}, [], None, "text", {"choices": []}, {"choices": [{}]}, {"choices": {"a": 1}},
        reply(None), reply(["part"]), reply("yes", usage="many"),
        reply("yes", usage={"prompt_tokens": "x"}),
    ],
)  # fmt: skip
def test_a_reply_of_another_form_is_no_answer(ask, value):
    answer = ask(answers(value))
    assert answer.text == ""
    assert "/v1/chat/completions: " in answer.error


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b"", b"[" * 100_000])
def test_a_reply_that_is_no_json_is_no_answer(ask, body):
    answer = ask(lambda handler: handler.send(200, body))
    assert answer.text == ""
    assert answer.error


def test_a_reply_that_breaks_off_is_no_answer(ask):
    answer = ask(lambda handler: handler.send(200, b'{"choices"', length=1000))
    assert answer.text == ""
    assert answer.error


def test_a_reply_that_never_begins_is_no_answer(ask):
    answer = ask(lambda handler: handler.close_connection)
    assert "RemoteDisconnected" in answer.error


def test_a_reply_without_end_is_no_answer(ask, monkeypatch):
    monkeypatch.setattr(adviser, "MOST_BYTES", 1000)
    answer = ask(lambda handler: handler.send(200, b" " * 5000))
    assert "more than 1000 bytes" in answer.error


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_a_refusal_is_no_answer_and_says_why(ask, status):
    answer = ask(lambda handler: handler.send(status, b'{"error": "no such model"}'))
    assert answer.text == ""
    assert f"answered {status}: b'" in answer.error
    assert "no such model" in answer.error


def test_a_silent_server_is_given_up(ask):
    woken = threading.Event()
    begun = time.monotonic()
    answer = ask(lambda _: woken.wait(30), timeout_s=0.2)
    woken.set()
    assert "timed out" in answer.error
    assert time.monotonic() - begun < 10


def test_a_server_that_dribbles_is_given_up(ask):
    done = threading.Event()

    def dribble(handler):
        handler.send(200, b"", length=10_000)
        while not done.wait(0.02):  # each wait is far below the timeout, but their sum is not
            handler.wfile.write(b" ")
            handler.wfile.flush()

    begun = time.monotonic()
    answer = ask(dribble, timeout_s=0.5)
    done.set()
    assert "too slow" in answer.error
    assert time.monotonic() - begun < 10


def test_a_port_where_nobody_listens():
    settings = {
        "llm_url": "http://127.0.0.1:1/v1", "llm_model": "m", "llm_timeout_s": 5.0,
        "llm_max_tokens": 9,
    }  # fmt: skip
    assert "refused" in adviser.ask(settings, "q").error
    assert "no model was asked" in adviser.ask({**settings, "llm_url": ""}, "q").error
    assert "unknown url type" in adviser.ask({**settings, "llm_url": "server"}, "q").error
