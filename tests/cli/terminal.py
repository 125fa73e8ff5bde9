"""A program at a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
_MODES = re.compile(r"\x1b\[\?\d+[hl]")
"""What readline tells the terminal of itself."""


class Terminal:
    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.shown = ""
        self._descriptor = descriptor
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def interrupt(self, text: str, deadline_s: float = 60) -> None:
        """Types Ctrl-C until the text is shown: readline may miss one that comes while it looks at something else."""
        end = time.monotonic() + deadline_s
        while True:
            self.type("\x03")
            try:
                self.wait(text, 5)
                return
            except AssertionError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise

    def wait(self, text: str, deadline_s: float = 60) -> str:
        """What was shown since the last wait, up to the text. Fails if it does not come."""
        end = time.monotonic() + deadline_s
        while (found := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < end, f"{text!r} did not come: {self.shown!r}"
            assert self._read(0.1), f"{text!r} did not come before the end: {self.shown!r}"
        since, self._seen = self._seen, found + len(text)
        return self.shown[since:found]

    def ended(self, deadline_s: float = 60) -> int:
        end = time.monotonic() + deadline_s
        while self._read(0.1):
            assert time.monotonic() < end, f"still running: {self.shown!r}"
        return self.process.wait(deadline_s)

    def _read(self, seconds: float) -> bool:
        """Whether there may be more."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self._descriptor, 65536)
        except OSError:  # the program has closed its end
            return False
        self.shown += _MODES.sub("", piece.decode(errors="replace"))
        return bool(piece)


@contextlib.contextmanager
def at_terminal(*arguments: str, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """`llm-manager` with these arguments."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ingress.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _own_terminal() -> None:
    """Ctrl-C then reaches the program. It has 24 lines of 120 columns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
