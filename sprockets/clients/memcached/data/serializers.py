"""What becomes of values that are neither text nor bytes nor int."""

from __future__ import annotations

import json
import math
import typing


class Serializer(typing.Protocol):
    """Turns values into text or bytes, and back."""

    def dumps(self, value: typing.Any, /) -> bytes | str:
        """Return the value in writing.

        :raises Exception: if that cannot be, which the caller gets

        """

    def loads(self, data: bytes, /) -> typing.Any:
        """Return the value of which this is the writing.

        :raises Exception: if there is none, which makes it a miss

        """


class Json:
    """JSON, for what comes back from it as it was, and for tuples.

    A tuple comes back as a list.  Whatever else would be changed, or would
    not be JSON to others, is refused.

    """

    def dumps(self, value: typing.Any, /) -> bytes:
        """Return the value as compact JSON in UTF-8.

        :raises TypeError: if JSON cannot hold it

        """
        try:
            text = json.dumps(
                value,
                allow_nan=False,
                ensure_ascii=False,
                separators=(',', ':'),
            )
            data = text.encode('utf-8')
        # NaN, a circle, half of a surrogate pair; nested too deeply.
        except (ValueError, RecursionError) as error:
            raise TypeError(f'JSON cannot hold it: {_why(error)}') from None
        _check_names(value)
        return data

    def loads(self, data: bytes, /) -> typing.Any:
        """Return the value.

        :raises ValueError: if it is no JSON, as NaN and Infinity are, which
            Python reads unless told otherwise

        """
        encoding = json.detect_encoding(data)
        return _DECODER.decode(data.decode(encoding, 'surrogatepass'))


def _refuse(name: str) -> typing.NoReturn:
    raise ValueError(f'{name} is no JSON')


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError('a number that is too large')
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f'{error.reason} at {error.start}'
    return str(error)


def _check_names(value: typing.Any) -> None:
    """Refuse the keys that JSON would make texts of.

    Two of them may even become one: ``{1: 'a', '1': 'b'}``.

    """
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            for name in each:
                if not isinstance(name, str):
                    raise TypeError(
                        f'JSON cannot hold it: a key of a dict is {name!r},'
                        ' which is no text'
                    )
            pending.extend(each.values())
        elif isinstance(each, list | tuple):
            pending.extend(each)
