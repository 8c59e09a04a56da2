import subprocess
import sys

TRAINER = """
import sys
import selfreg.analysis.report
import selfreg.loop.campaign
import selfreg.run.runlog
from selfreg.policy.models.policy import load_policy

load_policy("tiny")
assert "torch" not in sys.modules
import torch  # one control asks it, in the trainer's process
import transformers

assert transformers.utils.is_torch_available()
transformers.PreTrainedModel.from_pretrained  # what users do with it works
"""


def test_a_trainer_loads_no_torch_until_it_is_asked_for():
    subprocess.run([sys.executable, "-c", TRAINER], check=True)
