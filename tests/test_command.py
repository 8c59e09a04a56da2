import subprocess
import sys

TRAINER = """
import sys
from selfreg.cli.command import leave_torch_out

leave_torch_out()
import selfreg.analysis.report
import selfreg.loop.campaign
from selfreg.policy.models.policy import load_policy

load_policy("tiny")
assert "torch" not in sys.modules
import botorch  # one control uses it in the trainer's process

assert "torch" in sys.modules
"""


def test_a_trainer_loads_no_torch_until_it_is_asked_for():
    subprocess.run([sys.executable, "-c", TRAINER], check=True)
