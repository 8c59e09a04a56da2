"""Act on an alarm: run a command, post to a web hook, write a file that the trainer checks."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

WEBHOOK_TIMEOUT_S = 10.0


def alarm(
    facts: dict[str, Any], command: str | None, webhook: str | None, stop_file: str | None
) -> None:
    """Take every action that was asked for; one that fails prints a warning and stops no other.

    Args:
      facts: Plain JSON: "text", which is one sentence, and its evidence.
      command: Shell command, which finds the facts as JSON in SELFREG_ALARM.
      webhook: URL that receives the facts.
      stop_file: File that receives the sentence. It is written first, because it ends the training.
    """
    text = json.dumps(facts)
    if stop_file:
        try:
            Path(stop_file).parent.mkdir(parents=True, exist_ok=True)
            Path(stop_file).write_text(facts["text"] + "\n")
        except OSError as error:
            _say(f"--stop_file={stop_file} could not be written: {error}")
    if command:
        done = subprocess.run(command, shell=True, env=os.environ | {"SELFREG_ALARM": text})
        if done.returncode:
            _say(f"--on_alarm={command!r} exited with code {done.returncode}")
    if webhook:
        try:
            request = urllib.request.Request(
                webhook, text.encode(), {"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_S).close()
        except (OSError, ValueError) as error:
            _say(f"--webhook={webhook} could not be reached: {error}")


def _say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
