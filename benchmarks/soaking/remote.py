"""A process of its own that does as told, a line of JSON at a time.

Each line that it reads is a list, the name of a method with its arguments,
and is answered by one with the result.  It ends with its input.
"""

import json
import select
import subprocess
import sys

SECONDS = 15
"""What a process may take to end; it does nothing that takes longer."""


class Remote:
    """The process, for who tells it.

    :param str module: what runs there
    """

    def __init__(self, module, *arguments):
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, '-m', module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for who started it; this one ends with its input.
            start_new_session=True,
        )

    def do(self, name, *arguments):
        """Have something done, and return the result when it is."""
        self.begin(name, *arguments)
        return self.answer()

    def begin(self, name, *arguments):
        """Have something done, whose result is to be asked for later."""
        self._process.stdin.write(json.dumps([name, *arguments]) + '\n')
        self._process.stdin.flush()

    def has_answered(self):
        """Whether ``answer`` would not wait."""
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def answer(self):
        """Return the result of what was begun.

        :raises RuntimeError: if the process has ended
        """
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f'{self._module} has ended')
        return json.loads(answer)

    def stop(self):
        """End the process.

        :raises RuntimeError: if it did not do what it was to
        """
        try:
            self._process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f'{self._module} failed, as it said')


def obey(target, requests=sys.stdin):
    """Do what is read, one after the other, until there is no more.

    :param target: whose methods are called
    """
    for request in requests:
        name, *arguments = json.loads(request)
        print(json.dumps(getattr(target, name)(*arguments)), flush=True)
