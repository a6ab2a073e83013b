"""SIGTERM, which SLURM, Docker and ``kill`` send to end a program, as a request that training reads between steps."""

import signal
import threading
import time
from types import FrameType
from typing import Any

ECHO = 2.0  # seconds in which a launcher passes on a signal that reached its processes, too


class Sigterm:
    """A context in which the first SIGTERM is noted, so that training can save and end; the second ends the process.

    It takes over the signal in the main thread alone, and not where somebody has had it ignored; the earlier handler is
    put back when the context ends. The second signal goes to that handler, by default the system's, which ends the
    process at once.

    Args:
        launched: a launcher such as ``torchrun`` started this process. Launchers pass on a SIGTERM, and whoever sends
            it may send it to all processes himself, so one that follows within ``ECHO`` seconds is the same one.

    Attributes:
        asked: whether a SIGTERM has come.
    """

    def __init__(self, launched: bool = False):
        self.asked, self.launched = False, launched
        self.earlier: Any = None  # handler
        self.time = 0.0  # of the first signal

    def __enter__(self) -> "Sigterm":
        if threading.current_thread() is threading.main_thread():
            earlier = signal.getsignal(signal.SIGTERM)
            if earlier not in (None, signal.SIG_IGN):  # None: a handler in C, which Python cannot put back
                self.earlier = earlier
                signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self.earlier is not None:
            signal.signal(signal.SIGTERM, self.earlier)
            self.earlier = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self.time = True, time.monotonic()
            if not self.launched:
                self.__exit__()  # the next one ends even a process that hangs in compiled code
        elif time.monotonic() - self.time > ECHO:
            self.__exit__()
            signal.raise_signal(number)
