"""The snippets of reStructuredText files: found, and run in their order."""

import ast
import asyncio
import dataclasses
import re
import textwrap

from tornado import httpclient, httpserver, netutil

DIRECTIVE = re.compile(
    r'( *)\.\. (?:code-block:: (\w+)|invisible-code-block: (\w+))'
)
OPTION = re.compile(r' +:(\w+): *(.*)')


@dataclasses.dataclass
class Snippet:
    """A code block, or a comment that has the form of one.

    ``.. invisible-code-block: python`` is for what readers know without being
    told, and for checking what the text promises.

    """

    path: str
    line: int
    language: str
    text: str
    options: dict

    @property
    def caption(self):
        return self.options.get('caption')


def find(path):
    """Return the snippets of a file."""
    lines = path.read_text('utf-8').splitlines()
    found = []
    number = 0
    while number < len(lines):
        match = DIRECTIVE.fullmatch(lines[number])
        number += 1
        if match is None:
            continue
        options = {}
        while number < len(lines) and (
            option := OPTION.fullmatch(lines[number])
        ):
            options[option[1]] = option[2]
            number += 1
        begin = number
        indent = len(match[1])
        while number < len(lines) and (
            not lines[number].strip()
            or len(lines[number]) - len(lines[number].lstrip()) > indent
        ):
            number += 1
        text = textwrap.dedent('\n'.join(lines[begin:number]))
        found.append(
            Snippet(str(path), begin + 1, match[2] or match[3], text, options)
        )
    return found


class Session:
    """Runs Python snippets one after the other, as one program.

    A snippet may await at its top level.  A warning or an error is shown with
    the line of the file.

    """

    def __init__(self, **names):
        self.names = {'__name__': 'snippet', **names}
        self.loop = asyncio.new_event_loop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def run(self, snippet):
        code = compile(
            '\n' * (snippet.line - 1) + snippet.text,
            snippet.path,
            'exec',
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        # Code with an await in it is a coroutine, other code gives None.
        result = eval(code, self.names)
        if result is not None:
            self.loop.run_until_complete(result)


async def fetch(application, path, **options):
    """Let an application answer one request.

    :param options: those of :class:`tornado.httpclient.HTTPRequest`

    """
    server = httpserver.HTTPServer(application)
    sockets = netutil.bind_sockets(0, '127.0.0.1')
    server.add_sockets(sockets)
    client = httpclient.AsyncHTTPClient(force_instance=True)
    port = sockets[0].getsockname()[1]
    try:
        return await client.fetch(
            f'http://127.0.0.1:{port}{path}', raise_error=False, **options
        )
    finally:
        client.close()
        server.stop()
        await server.close_all_connections()
