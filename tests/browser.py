"""A real browser, headless: what a page draws, and a picture of it."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import struct
import tempfile
import zlib

import pytest

PROGRAMS = (
    'chromium',
    'chromium-browser',
    'google-chrome',
    '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
)

SECONDS = 60
"""Within this time it has started, shown the page, and ended."""

FLAGS = (
    '--headless',
    # It does not run as root otherwise; it only sees pages of the tests.
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--hide-scrollbars',
    # It asks nobody but the service that is tested.
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-proxy-server',
    # The page's own messages, a refusal by its policy say, go to stderr.
    '--enable-logging=stderr',
    '--lang=en',
)


async def show(url, *flags):
    """Show a page and return what was written, and the page's own messages.

    :param str url: where it is
    :param str flags: further ones of Chromium
    :rtype: tuple(str, list)

    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f'no {" or ".join(PROGRAMS[:3])} in the PATH')
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            program,
            *FLAGS,
            f'--user-data-dir={folder}',
            *flags,
            url,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, 'HOME': folder, 'TZ': 'UTC'},
            # It has many processes; all of them are ended together.
            start_new_session=True,
        )
        try:
            output, errors = await asyncio.wait_for(
                process.communicate(), SECONDS
            )
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    messages = re.findall(r'CONSOLE[:(].*', errors.decode(errors='replace'))
    return output.decode(), messages


async def dom(url, seconds=1):
    """Return a page as it is after a time, as HTML, and its messages."""
    return await show(
        url, f'--virtual-time-budget={seconds * 1000}', '--dump-dom'
    )


async def picture(url, path, width=1280, height=900, dark=False, seconds=1):
    """Write a picture of a page, and return its messages.

    :param pathlib.Path path: the PNG file to write

    """
    _, messages = await show(
        url,
        f'--virtual-time-budget={seconds * 1000}',
        f'--window-size={width},{height}',
        *(['--blink-settings=preferredColorScheme=0'] if dark else []),
        f'--screenshot={path}',
    )
    return messages


def rows(path):
    """Return the size of a picture, and how many of its rows are different.

    Rows are compared as they are filtered (PNG, "Filtering"): where all is of
    one colour they are the same, but for the first ones.

    :rtype: tuple(int, int, int)

    """
    data = path.read_bytes()
    assert data.startswith(b'\x89PNG\r\n\x1a\n')
    at = 8
    packed = b''
    while at < len(data):
        length, kind = struct.unpack_from('>I4s', data, at)
        chunk = data[at + 8 : at + 8 + length]
        if kind == b'IHDR':
            width, height, depth, colours = struct.unpack_from('>IIBB', chunk)
        if kind == b'IDAT':
            packed += chunk
        at += length + 12
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    size = 1 + (width * samples * depth + 7) // 8
    pixels = zlib.decompress(packed)
    return (
        width,
        height,
        len({pixels[at : at + size] for at in range(0, len(pixels), size)}),
    )
