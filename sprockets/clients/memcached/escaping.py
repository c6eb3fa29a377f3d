"""Text from outside, made harmless for whoever reads it."""

from __future__ import annotations

MOST = 1000
"""Characters that are shown of one text."""


def printable(text: str, most: int = MOST) -> str:
    r"""Return text as one line of printable characters, and cut.

    What is none is spelt out: line ends, what colours or moves in a terminal,
    what turns the direction of writing, halves of surrogate pairs.

    :param str text: text that is shown as it is, where it is printable
    :param int most: how many of its characters are shown

    """
    if len(text) > most:
        text = f'{text[:most]}...'
    if text.isprintable():
        return text
    return ''.join(
        each
        if each.isprintable()
        else each.encode('unicode_escape', 'backslashreplace').decode('ascii')
        for each in text
    )


def spelt(line: bytes, most: int) -> str:
    r"""Return what a server sent in ASCII, and cut.

    Its backslashes are doubled, so that it cannot look like what was spelt
    out.

    """
    return line[:most].decode('latin-1').encode('unicode_escape').decode()
