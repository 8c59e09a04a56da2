"""Run the command `selfreg` as `python -m selfreg`."""

from selfreg.cli.verbs import run

if __name__ == "__main__":
    run()
