import subprocess
import sys
import textwrap

LOST = """
    import gc, os, signal
    from selfreg.run import interrupt

    interrupt.install()
    gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    gc.collect()
    gc.callbacks.clear()
    print("went on")
    try:
        interrupt.check()
    except KeyboardInterrupt:
        print("stopped")
"""


def run_script(code):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_an_interrupt_lost_in_a_gc_callback_still_stops():
    run = run_script(LOST)
    assert run.stdout == "went on\nstopped\n"
    assert "Exception ignored" in run.stderr


def test_without_ctrl_c_nothing_happens():
    from selfreg.run import interrupt

    interrupt.check()


WAITED = """
    import os, signal
    from selfreg.run import interrupt

    interrupt.install(at_once=False)
    os.kill(os.getpid(), signal.SIGINT)
    print("loaded")
    try:
        interrupt.install()
    except KeyboardInterrupt:
        print("stopped")
"""


def test_an_interrupt_waits_until_the_libraries_are_loaded():
    assert run_script(WAITED).stdout == "loaded\nstopped\n"
