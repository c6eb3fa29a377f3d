"""Commands that end when the script that called them ends."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
"""What ends a script: a closed terminal, Ctrl-C, a polite kill."""

PATIENCE = 10
"""Seconds that an interrupted command has to end by itself."""


class Error(Exception):
    """A step that cannot be done; its text is for the person who ran it."""


_lock = threading.Lock()
_running = {}
_stopped = threading.Event()


def run(arguments, *, cwd=None, env=None, show=False, timeout=900, kill=True):
    """Run a command without a terminal and return what it printed.

    :param list arguments: the command
    :param cwd: the folder to run it in
    :param dict env: variables to set besides those there are
    :param bool show: print what it prints at once, instead of returning it
    :param float timeout: seconds it may take
    :param bool kill: whether it may be killed when it does not end though
        interrupted; a package manager may not
    :rtype: str
    :raises Error: if it cannot be run, fails or takes too long

    """
    # Not a pipe: nobody would read it while the command is being ended.
    with tempfile.TemporaryFile() as file:
        output = None if show else file
        process = _start(
            arguments, kill, cwd=cwd, env=env, output=output, errors=output
        )
        try:
            process.wait(timeout)
        except BaseException as error:
            _end({process: kill})
            if isinstance(error, subprocess.TimeoutExpired):
                raise Error(str(error)) from None
            raise
        finally:
            with _lock:
                del _running[process]
        file.seek(0)
        printed = file.read().decode(errors='replace')
    if process.returncode:
        raise Error(
            f'{shlex.join(process.args)} ended with status'
            f' {process.returncode}\n{printed}'.rstrip()
        )
    return printed


@contextlib.contextmanager
def running(arguments, *, env=None, output=None, errors=None):
    """Run a command while the body of a ``with`` statement does.

    :param list arguments: the command
    :param dict env: variables to set besides those there are
    :param output: the file for what it prints, if not to the terminal
    :param errors: the same for what it prints to standard error
    :returns: a context manager that gives the process
    :raises Error: if it cannot be run

    """
    process = _start(arguments, True, env=env, output=output, errors=errors)
    try:
        yield process
    finally:
        _end({process: True})
        with _lock:
            del _running[process]


def pause(seconds):
    """Wait, unless everything is stopped meanwhile.

    :param float seconds: how long
    :raises Error: if it is

    """
    if _stopped.wait(seconds):
        raise Error('interrupted')


def stop():
    """End every command that runs, and let no other start."""
    with _lock:
        _stopped.set()
        running = dict(_running)
    _end(running)


def _start(arguments, kill, *, env, output, errors, cwd=None):
    arguments = [os.fspath(argument) for argument in arguments]
    sys.stdout.flush()
    with _signals_later(), _lock:
        if _stopped.is_set():
            raise Error('interrupted')
        try:
            process = subprocess.Popen(
                arguments,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                # A group of its own: so whatever it starts ends with it.
                start_new_session=True,
            )
        except OSError as error:
            raise Error(f'{shlex.join(arguments)}: {error}') from error
        _running[process] = kill
    return process


@contextlib.contextmanager
def _signals_later():
    """Let a signal wait, so that what is being started is ended too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _end(processes):
    for process in processes:
        _signal(process, signal.SIGINT)
    for process, kill in processes.items():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE if kill else None)
        if kill:
            _signal(process, signal.SIGKILL)
            process.wait()


def _signal(process, number):
    # Its group is gone when it and all that it started have ended.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def main(function):
    """Run a script's main function and exit with the status it returns.

    Ctrl-C, SIGTERM and a closed terminal end it, and what it started.
    """

    def interrupt(number, frame):
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in SIGNALS:
        # nohup ignores the closing of the terminal for us.
        if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, interrupt)
    try:
        status = function()
    except Error as error:
        print(f'error: {error}', file=sys.stderr)
        status = 1
    finally:
        stop()
    sys.exit(status)
