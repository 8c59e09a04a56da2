"""Run `selfreg.pretrain` under its former name."""

import runpy

if __name__ == "__main__":
    runpy.run_module("selfreg.pretrain", run_name="__main__", alter_sys=True)
