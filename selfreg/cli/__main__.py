"""`python -m selfreg` is the command `selfreg`."""

from selfreg.cli.verbs import run

if __name__ == "__main__":
    run()
