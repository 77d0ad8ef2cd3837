import os
import signal
import subprocess
import sys

import pytest

from fedfuse.commands.termination import interrupted_by_sigterm

WISHES = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers():
    """Take signals for errors outside of what is tested, and put back what was there before."""

    def not_expected(number, frame):
        raise AssertionError(f"nobody listened for {signal.Signals(number).name}")

    before = {number: signal.signal(number, not_expected) for number in WISHES}
    yield not_expected
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", WISHES)
def test_wish_to_end_is_an_interrupt_and_afterwards_what_it_was(number, handlers):
    with pytest.raises(KeyboardInterrupt), interrupted_by_sigterm():
        signal.raise_signal(number)
        pytest.fail("it went on")
    assert [signal.getsignal(one) for one in WISHES] == [handlers, handlers]


def test_without_a_wish_nothing_happens_and_all_is_as_before(handlers):
    with interrupted_by_sigterm():
        assert handlers not in [signal.getsignal(one) for one in WISHES]
    assert [signal.getsignal(one) for one in WISHES] == [handlers, handlers]


def test_errors_pass_through_and_all_is_as_before(handlers):
    with pytest.raises(OSError, match="no space left"), interrupted_by_sigterm():
        raise OSError("no space left")
    assert [signal.getsignal(one) for one in WISHES] == [handlers, handlers]


@pytest.mark.parametrize("number", WISHES)
def test_wish_of_another_process_wakes_one_that_waits(number):
    program = (
        "import signal, sys\n"
        "from fedfuse.commands.termination import interrupted_by_sigterm\n"
        "signal.alarm(20)\n"
        "try:\n"
        "    with interrupted_by_sigterm():\n"
        "        print('ready', flush=True)\n"
        "        signal.pause()\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(7)\n"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, number)
        assert process.wait(60) == 7
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
