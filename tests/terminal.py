"""A terminal for programs that look whether they have one."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

SECONDS = 30
"""Within this time a program writes what is waited for, and ends."""

ESCAPES = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]')


class Terminal:
    """A program in a terminal of its own.

    :ivar str screen: all that it wrote, without colours and the like

    """

    def __init__(self, arguments, environ, width=120, height=50):
        self._master, slave = pty.openpty()
        size = struct.pack('HHHH', height, width, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        self.process = subprocess.Popen(
            arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environ, 'TERM': 'xterm-256color'},
            start_new_session=True,
        )
        os.close(slave)
        self.written = ''

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def screen(self):
        return ESCAPES.sub('', self.written)

    @property
    def lines(self):
        """The lines of what it wrote last, in place of what was there."""
        frame = re.split(r'\x1b\[[0-9]*A', self.written)[-1]
        return ESCAPES.sub('', frame).replace('\r', '').split('\n')

    def wait_for(self, pattern, times=1):
        """Wait until it has written something, so many times."""
        end = time.monotonic() + SECONDS
        while len(re.findall(pattern, self.screen)) < times:
            left = end - time.monotonic()
            assert left > 0, self.screen
            assert self._read(left), self.screen

    def _read(self, seconds):
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return False
        # It is an error on Linux when the program has ended.
        with contextlib.suppress(OSError):
            data = os.read(self._master, 1 << 16)
            self.written += data.decode(errors='replace')
            return bool(data)
        return False

    def interrupt(self):
        """Press Ctrl-C, wait for the end, and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self):
        """Wait for the end and return the exit status."""
        while self._read(SECONDS):
            pass
        return self.process.wait(SECONDS)
