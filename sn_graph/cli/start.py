"""Start: the process that a user starts looks after a second one, which does the work.

A mapped input that another program cuts off kills whoever reads it next (SIGBUS), be it numpy, BLAS or onnxruntime, and
no handler in Python can prevent that. So on Linux the work is done by a fork: the first process passes signals on, and
when the second is killed, says in one line of what, and removes the temporary files that it left. If the first is
killed, the second is too. Nothing but the standard library is imported before the fork, which takes a millisecond.
"""

import contextlib
import gc
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from sn_graph.version import __version__

_STOPPING = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
_UNAVAILABLE = 4
_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
_FROM_KERNEL = 0x80  # SI_KERNEL: a key on the terminal, which reaches both processes
_AGAIN = 1.0  # seconds after which a second Ctrl-C counts


class _Stop:
    """What a signal that stops the work does: at once while nothing is open, then as an exception that tidies up."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.working = False
        self._at = 0.0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if not self.working:
            with contextlib.suppress(OSError):
                os.write(2, f"{self.line(number)}\n".encode())
            os._exit(128 + number)
        again = self.number is not None and time.monotonic() < self._at + _AGAIN
        self.number = number
        if not again:  # Ctrl-C may come twice, from the terminal and from whoever passes it on
            self._at = time.monotonic()
            raise SystemExit(128 + number)

    @staticmethod
    def line(number: int) -> str:
        return f"sn-graph: {'interrupted' if number == signal.SIGINT else 'stopped by ' + signal.Signals(number).name}"


def main() -> NoReturn:
    """Run the command line of this process."""
    passed = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup leaves it
    _hold(passed)
    _fill_standard_streams()
    if "--version" in sys.argv[1:2]:  # before anything is imported
        print(f"sn-graph {__version__}")
        sys.exit(0)
    prctl = _prctl()
    if prctl is None or threading.active_count() > 1:
        _work(passed, None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _hold([signal.SIGCHLD])
    told, tells = os.pipe()
    first = os.getpid()
    worker = os.fork()
    if worker:
        os.close(tells)
        _look_after(worker, passed, told)
    os.close(told)
    os.set_blocking(tells, False)
    prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != first:
        os._exit(128 + signal.SIGKILL)
    _work(passed, tells)


def _hold(numbers: list[int]) -> None:
    """Let signals wait until there is somebody to take them."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def _fill_standard_streams() -> None:
    """Open what was closed, or a model would be the next to get its number and anything that is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # so that what is printed is an error, as it would have been
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where a σ can't be written, a ? will do


def _prctl() -> Callable[[int, int], int] | None:
    """Return Linux's prctl, None where there is none."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        found: Callable[[int, int], int] = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    return found


def _work(passed: list[int], tells: int | None) -> NoReturn:
    """Run the command of this process's arguments, and end the process."""
    _start_lightly()
    stop = _Stop()
    for number in passed:
        signal.signal(number, stop)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*passed, signal.SIGCHLD])
    from sn_graph.cli.app import app
    from sn_graph.cli.console import say_error

    app.tells = tells
    app.stopped = lambda: stop.number is not None
    code: int | str | None = 0
    try:
        stop.working = True
        try:
            app()
        except OSError as error:  # a help text into a full disk
            say_error(f"output can't be written: {error.strerror or error}; make room, or send it elsewhere")
            code = _UNAVAILABLE
        except SystemExit as end:
            code = end.code
        _hold(passed)  # what is done is done: Python takes down its handlers now, and would die of the next signal
    except SystemExit as end:  # of a signal in the last moment
        code = end.code
    gc.freeze()  # what is left ends with the process; to look for garbage in it takes a tenth of a small run
    if stop.number is not None:
        kept = [str(path) for path in app.written if os.path.exists(path)]
        with contextlib.suppress(OSError):
            print(stop.line(stop.number) + (f"; {', '.join(kept)} was written" if kept else ""), file=sys.stderr)
        code = 128 + stop.number
    sys.exit(code)


def _start_lightly() -> None:
    """Set what the libraries would spend a third of a small model's processor time on.

    Garbage is collected after 100,000 new objects, and not after 700: imports make 50,000, none of which is garbage.
    OpenBLAS's threads, of numpy and of scipy, wait for their next product for 2^22 cycles by spinning, and not for 2^26
    (a millisecond, and not 25), which is what they do when they are made.
    """
    gc.set_threshold(100_000)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "22")


def _look_after(worker: int, passed: list[int], told: int) -> NoReturn:
    """Wait for the process that works, pass signals on to it, and end as it does."""
    waited, stopped = {*passed, signal.SIGCHLD}, 0
    while True:
        caught = signal.sigwaitinfo(waited)
        if caught.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(worker, os.WNOHANG)
            if ended:
                break
        else:
            stopped = caught.si_signo
            if caught.si_code != _FROM_KERNEL:
                os.kill(worker, stopped)
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))  # the worker has flushed and tidied up for both
    _explain_death(stopped or os.WTERMSIG(status), told)  # to be stopped may kill a library that is being loaded


def _explain_death(number: int, told: int) -> NoReturn:
    """Remove what a killed worker left, and say in one line why it died."""
    from sn_graph.cli.console import say_error
    from sn_graph.model import collect, understand

    os.set_blocking(told, False)
    heard = b""
    with contextlib.suppress(OSError):
        while part := os.read(told, 1 << 16):
            heard += part
    read, folders = understand(heard)
    for folder in folders:
        collect(folder)
    cut = []
    for path, size in read.items():
        try:
            if path.stat().st_size < size:
                cut.append(f"{path} has {path.stat().st_size} bytes where it had {size}")
        except OSError:
            cut.append(f"{path} is gone")
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number in _STOPPING:  # between two handlers
        with contextlib.suppress(OSError):
            os.write(2, f"{_Stop.line(number)}\n".encode())
        os._exit(128 + number)
    if number == getattr(signal, "SIGBUS", None):
        what = ", ".join(cut) or "or its disk can't be read"
        say_error(f"an input was cut off while it was read: {what}; run it again when nobody writes to it any more")
    elif number == signal.SIGKILL:
        say_error(f"the work was killed ({name}), for want of memory perhaps; run it where there is more")
    else:
        say_error(
            f"the work died of {name}, in a library that it uses; report it, or try --no-verify where there is one"
        )
    os._exit(_UNAVAILABLE)
