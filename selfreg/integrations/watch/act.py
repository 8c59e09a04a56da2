"""What an alarm sets off: a command, a web hook, a file that the trainer looks for."""

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
    """Do all that was asked for; what fails is said, and does not keep the rest from being done.

    Args:
      facts: "text", one sentence, and what it rests on: plain JSON.
      command: For the shell, with the facts as JSON in SELFREG_ALARM.
      webhook: An address that the facts are posted to.
      stop_file: A file to write the sentence to. It comes first: it ends the training.
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
            _say(f"--on_alarm={command!r} ended with {done.returncode}")
    if webhook:
        try:
            request = urllib.request.Request(
                webhook, text.encode(), {"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_S).close()
        except (OSError, ValueError) as error:
            _say(f"--webhook={webhook} could not be told: {error}")


def _say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
