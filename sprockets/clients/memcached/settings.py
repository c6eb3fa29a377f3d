"""What the environment says: names, defaults, parsing, error messages."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import typing
from collections import abc

from sprockets.clients.memcached import certificates, words
from sprockets.clients.memcached.data import deflated, frames, values

DEFAULT_SERVER = '127.0.0.1:11211'
DEFAULT_PORT = 11211
DISCOVER = 'discover:'
"""What precedes the address of a server that tells which servers there are."""

MAX_DISCOVERED = 1000
"""Servers that whoever tells them may name; AWS has clusters of 60."""

MOST_PARTS = 1024
"""Parts that a value may have whatever a client is set to."""

LONGEST_TIMEOUT = 2_000_000
"""Seconds that a call may have: kernels count milliseconds in 31 bits."""

MOST_WEIGHT = 1_000_000
"""The weight that a server may have: each unit takes some bytes."""

LEAST_PARTED = 1024
"""The least that ``max_value_len`` may be where values are stored in parts."""

SERVER_FORMS = (
    'host[:port][:weight], [ipv6][:port][:weight] or unix:/path[:weight]'
)

IN_PROCESS = ('memory', 'none')
"""In place of servers: what is kept in this process, and what keeps nothing.
A host of such a name has its port behind it."""

Weighted = str | tuple[str, int]
"""A server as python-memcached takes it: ``(server, weight)`` if weighted."""


class Address(typing.NamedTuple):
    """Where a server listens.

    ``family`` is ``'unix'``, ``'inet'`` or ``'inet6'`` if that is wanted, and
    ``''`` if the name may stand for either kind of IP address.  What is in
    this process has a kind of its own, ``'memory'`` or ``'none'``.  ``text``
    is how it is named in logs and errors.

    """

    family: str
    host: str
    port: int

    @property
    def text(self) -> str:
        if self.family == 'unix':
            return f'unix:{self.host}'
        if self.family in IN_PROCESS:
            return self.host
        if ':' in self.host:
            return f'[{self.host}]:{self.port}'
        return f'{self.host}:{self.port}'

    def __str__(self) -> str:
        return self.text


class Secret:
    """What nothing shows but its ``value``: a password, or what may hold one.

    It is wrapped before anything is looked at, so that no frame of a traceback
    has the bare value, whatever is wrong, with it or with something else.

    """

    __slots__ = ('value',)

    def __init__(self, value: typing.Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return '***'

    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn:
        raise TypeError('a password is not pickled')

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


class Credentials(typing.NamedTuple):
    """Who a client says it is, and how it proves it."""

    username: str
    password: Secret


class Tls(typing.NamedTuple):
    """How connections are encrypted, and what the server has to prove."""

    files: certificates.Files
    server_name: str | None
    """The name in its certificate, None for the host of its address."""


_UNIX = re.compile(r'(?P<server>unix:(?P<host>.+?))(:(?P<weight>[0-9]+))?')
_IPV6 = re.compile(
    r'(?P<server>(inet6:)?\[(?P<host>[0-9A-Fa-f:.]+(%[\w.-]+)?)\]'
    r'(:(?P<port>[0-9]+))?)(:(?P<weight>[0-9]+))?'
)
_HOST = re.compile(
    r'(?P<server>(inet6?:)?(?P<host>[\w.-]+)'
    r'(:(?P<port>[0-9]+))?)(:(?P<weight>[0-9]+))?'
)


def parse_server(text: str) -> tuple[Address, str, int]:
    """Return a server's address, the server without its weight, the weight.

    :param str text: one server in any of the forms of ``SERVERS``
    :raises ValueError: that says what is wrong with it

    """
    text = text.strip()
    if text in IN_PROCESS:
        return Address(text, text, 0), text, 1
    match = (
        _UNIX.fullmatch(text) or _IPV6.fullmatch(text) or _HOST.fullmatch(text)
    )
    if match is None:
        raise ValueError(f'{text!r} is not of the form {SERVER_FORMS}')
    parts = match.groupdict()
    if match.re is _IPV6:
        try:
            socket.inet_pton(socket.AF_INET6, parts['host'].partition('%')[0])
        except OSError:
            raise ValueError(
                f'{text!r} has no IPv6 address in its brackets'
            ) from None
    if text.startswith('unix:'):
        address = Address('unix', parts['host'], 0)
    else:
        family = 'inet6' if text.startswith(('inet6:', '[')) else ''
        if text.startswith('inet:'):
            family = 'inet'
        port = int(parts['port'] or DEFAULT_PORT)
        if not 0 < port < 65536:
            raise ValueError(
                f'the port {port} of {text!r} is not between 1 and 65535'
            )
        address = Address(family, parts['host'], port)
    weight = int(parts['weight'] or 1)
    _check_weight(weight, text)
    return address, parts['server'], weight


def _check_weight(weight: typing.Any, text: str) -> None:
    if not isinstance(weight, int) or not 0 < weight <= MOST_WEIGHT:
        raise ValueError(
            f'the weight {words.shown(weight)} of {text!r} is not between 1'
            f' and {MOST_WEIGHT}'
        )


def parse_servers(text: str) -> list[Weighted]:
    """Return the servers of a comma-separated list.

    :rtype: list
    :return: strings, and ``(string, weight)`` for those with a weight
    :raises ValueError: that says which server is wrong, and why

    """
    servers: list[Weighted] = []
    for part in text.split(','):
        if not part.strip():
            continue
        if part.strip().startswith(DISCOVER):
            servers.append(part.strip())
            continue
        _, server, weight = parse_server(part)
        weighted = server != part.strip()
        servers.append((server, weight) if weighted else server)
    if not servers:
        raise ValueError(f'{text!r} names no server; {SERVER_FORMS} expected')
    discovered(servers)
    return servers


def discovered(servers: abc.Sequence[Weighted]) -> Address | None:
    """Return whom to ask for the servers, None if they are listed.

    :raises ValueError: if it is not of the form ``discover:host[:port]``, or
        not alone; likewise for what is no server but in this process

    """
    for server in servers:
        name = server if isinstance(server, str) else weighted(server)[0]
        if name in IN_PROCESS and len(servers) > 1:
            raise ValueError(
                f'{name!r} is not alone; a host of that name is'
                f' {name}:{DEFAULT_PORT}'
            )
        if isinstance(server, str) and server.startswith(DISCOVER):
            address, text, _ = parse_server(server.removeprefix(DISCOVER))
            if address.family == 'unix' or server != DISCOVER + text:
                raise ValueError(
                    f'{server!r} is not of the form {DISCOVER}host[:port]'
                )
            if len(servers) > 1:
                raise ValueError(
                    f'{server!r} is not alone; expected it without other'
                    ' servers, for it tells them'
                )
            return address
    return None


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f'{text!r} is not a number of seconds above 0')
    return value


def _timeout(text: str) -> float:
    value = _seconds(text)
    if value > LONGEST_TIMEOUT:
        raise ValueError(f'{text!r} is more than {LONGEST_TIMEOUT} seconds')
    return value


def _seconds_or_none(text: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f'{text!r} is not a number of seconds, 0 or more')
    return value


def _whole(least: int) -> abc.Callable[[typing.Any], int]:
    def whole(text: typing.Any) -> int:
        try:
            value = int(text)
        except (TypeError, ValueError, OverflowError):
            value = least - 1
        if value < least or (isinstance(text, float) and text != value):
            raise ValueError(f'{text!r} is not a whole number from {least} on')
        return value

    return whole


def _parts(text: typing.Any) -> int:
    value = _whole(0)(text)
    if value > MOST_PARTS:
        raise ValueError(f'{text!r} is more than {MOST_PARTS}')
    return value


def _boolean(text: typing.Any) -> bool:
    if isinstance(text, bool):
        return text
    value = str(text).strip().lower()
    if value in ('1', 'true', 'yes', 'on'):
        return True
    if value in ('0', 'false', 'no', 'off'):
        return False
    raise ValueError(f'{text!r} is neither true nor false')


def _one_of(*names: str) -> abc.Callable[[typing.Any], str]:
    def one_of(text: typing.Any) -> str:
        value = str(text).strip().lower()
        if value not in names:
            raise ValueError(f'{text!r} is neither {" nor ".join(names)}')
        return value

    return one_of


def _username(text: typing.Any) -> str:
    if not _is_username(text):
        raise ValueError(
            'it has blanks or control characters or is no text; expected text'
            ' without them'
        )
    return typing.cast(str, text)


def _is_username(text: typing.Any) -> bool:
    return isinstance(text, str) and bool(
        re.fullmatch(r'[^\s\x00-\x1f]+', text)
    )


def _password(given: typing.Any) -> Secret:
    secret = given if isinstance(given, Secret) else Secret(given)
    # Nothing is raised where the bare text is.
    if wrong := _wrong_with(secret.value):
        raise ValueError(f'the password {wrong}')
    return secret


def _wrong_with(password: typing.Any) -> str | None:
    if not isinstance(password, str) or not password:
        return 'is no text; expected text'
    try:
        encoded = password.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:
        return 'is no text that can be sent'
    if re.search(rb'[\x00-\x1f\x7f]', encoded):
        return 'has control characters; expected none of them'
    return None


def _serializer(value: typing.Any) -> typing.Any:
    if not isinstance(value, str):
        for name in ('dumps', 'loads'):
            if not callable(getattr(value, name, None)):
                raise ValueError(
                    f'{words.shown(value)} has no {name}; expected pickle,'
                    ' json, or an object with dumps and loads'
                )
        return value
    return _one_of('pickle', 'json')(value)


def _compression(text: typing.Any) -> str:
    name = _one_of('zlib', 'zstd')(text)
    if name == 'zstd' and not frames.is_there():
        raise ValueError(f'zstd takes {frames.NEEDED}')
    return name


def _file(path: typing.Any) -> str:
    try:
        name = os.path.abspath(os.fsdecode(path))
        with open(name, 'rb'):
            return name
    except TypeError:
        raise ValueError(
            f'{words.shown(path)} is no path; expected that of a file'
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise ValueError(f'{path!r} cannot be read: {reason}') from None


def _server_name(text: typing.Any) -> str:
    if not isinstance(text, str) or not re.fullmatch(
        r'[\w.:-]+', text.strip()
    ):
        raise ValueError(
            f'{words.shown(text)} is no name of a host; expected one as in a'
            ' certificate'
        )
    return text.strip()


_KEY_PREFIX = re.compile(rb'[\x21-\x7e\x80-\xff]*')


def _key_prefix(text: typing.Any) -> bytes:
    value = text
    if isinstance(text, str):
        # Half a surrogate pair is no text that can be sent.
        with contextlib.suppress(UnicodeEncodeError):
            value = text.encode()
    if not isinstance(value, bytes) or not _KEY_PREFIX.fullmatch(value):
        raise ValueError(
            f'{text!r} has blanks or control characters or is no text;'
            ' expected text without them'
        )
    if len(value) >= 250:
        raise ValueError(
            f'a prefix of {len(value)} bytes leaves nothing of the 250 bytes'
            ' of a key'
        )
    return value


def weighted(server: typing.Any) -> tuple[str, int]:
    """Return a ``(string, weight)`` that a caller gave.

    :raises ValueError: if it is none

    """
    try:
        text, weight = server
    except (TypeError, ValueError):
        text = weight = None
    if not isinstance(text, str):
        raise ValueError(
            f'{words.shown(server)} is neither a string nor (string, weight)'
        )
    parse_server(text)
    _check_weight(weight, text)
    return text, weight


def hide_servers(value: typing.Any) -> typing.Any:
    """Return servers as they are given, or as a secret.

    A URL with a password is a likely mistake, which has an @.

    """
    if not isinstance(value, str | bytes | Secret):
        with contextlib.suppress(TypeError):
            value = list(value)
    return Secret(value) if '@' in repr(value) else value


def reveal_servers(secret: Secret) -> list[Weighted]:
    """Return servers that may have a password among them, where they do not.

    :raises ValueError: for servers that are wrong, none of which it shows

    """
    servers = _servers_or_none(secret)
    if servers is None:
        raise ValueError(f'credentials and @ have no place in {SERVER_FORMS}')
    return servers


def _servers_or_none(secret: Secret) -> list[Weighted] | None:
    # What is raised in here has the bare text, and ends here.
    try:
        return _servers(secret.value)
    except (TypeError, ValueError):
        return None


def listed(value: typing.Any) -> list[typing.Any]:
    """Return servers that a caller gave, as text or one by one, as a list.

    :raises ValueError: if they are neither

    """
    if isinstance(value, str):
        return list(parse_servers(value))
    # Of bytes it would be their numbers.
    if not isinstance(value, bytes):
        with contextlib.suppress(TypeError):
            return list(value)
    raise ValueError(
        f'{words.shown(value)} is no list of servers; expected'
        f' {SERVER_FORMS}, in a list or with commas between them'
    )


def _servers(value: typing.Any) -> list[Weighted]:
    if isinstance(value, Secret):
        return reveal_servers(value)
    servers: list[Weighted] = []
    for server in listed(value):
        if isinstance(server, str):
            servers.extend(parse_servers(server))
            continue
        servers.append(weighted(server))
    if not servers:
        raise ValueError(f'no server given; {SERVER_FORMS} expected')
    discovered(servers)
    return servers


class Option(typing.NamedTuple):
    """One row of the table of options."""

    parse: abc.Callable[[typing.Any], typing.Any]
    default: typing.Any
    meaning: str


OPTIONS = {
    'servers': Option(
        _servers,
        [DEFAULT_SERVER],
        f'servers, comma-separated: {SERVER_FORMS}; or memory, which is in'
        ' this process, or none',
    ),
    'socket_timeout': Option(_timeout, 3.0, 'seconds for one whole call'),
    'dead_retry': Option(
        _seconds_or_none, 30.0, 'seconds before a dead server is tried again'
    ),
    'max_connections': Option(
        _whole(1), 4, 'connections to one server: most used, or kept'
    ),
    'max_idle': Option(
        _seconds, 180.0, 'seconds that a connection may be idle and be used'
    ),
    'key_prefix': Option(_key_prefix, b'', 'put before every key'),
    'hash_bad_keys': Option(
        _boolean,
        False,
        'whether keys that memcached would refuse end in a hash instead',
    ),
    'min_compress_len': Option(
        _whole(0), 0, 'compress values from this many bytes; 0 never'
    ),
    'compression': Option(
        _compression, 'zlib', 'how they are compressed: zlib, or zstd'
    ),
    'max_value_len': Option(
        _whole(0),
        values.MAX_LENGTH,
        'store no value of more bytes than this; 0 for no limit',
    ),
    'max_parts': Option(
        _parts,
        1,
        'store a value that is larger in so many parts at most; 0 or 1 not to',
    ),
    'max_inflated_len': Option(
        _whole(1),
        deflated.MAX_INFLATED,
        'inflate no value to more bytes than this',
    ),
    'serializer': Option(
        _serializer, 'pickle', 'pickle, or json, which never unpickles'
    ),
    'distribution': Option(
        _one_of('modula', 'ketama'),
        'modula',
        "how keys are spread: modula, python-memcached's, or ketama",
    ),
    'max_discovered': Option(
        _whole(1),
        MAX_DISCOVERED,
        f'take no more servers than this from {DISCOVER}host',
    ),
    'failover': Option(
        _boolean, True, "whether a dead server's keys go to the others"
    ),
    'username': Option(
        _username, None, 'who to log in as, on servers that ask (memcached -Y)'
    ),
    'password': Option(_password, None, 'the password for that'),
    'tls': Option(
        _boolean, False, 'whether to use TLS; certificates are verified'
    ),
    'tls_ca_file': Option(
        _file,
        None,
        'certificates of the authorities to trust; without it, those that'
        ' the system trusts',
    ),
    'tls_cert_file': Option(
        _file, None, 'our certificate, for servers that ask for one'
    ),
    'tls_key_file': Option(
        _file, None, 'its key, if it is not in the same file'
    ),
    'tls_server_name': Option(
        _server_name,
        None,
        "the name in the servers' certificates; without it, each one's host",
    ),
    'trace_keys': Option(
        _boolean, False, 'whether the spans of OpenTelemetry hold the keys'
    ),
}
"""Every option by its keyword, in the order in which they are documented."""


_NEEDED = {
    'username': 'password',
    'password': 'username',
    'tls_ca_file': 'tls',
    'tls_cert_file': 'tls',
    'tls_key_file': 'tls_cert_file',
    'tls_server_name': 'tls',
}
"""Options that make no sense without another one."""


def prefix_name(prefix: str | None) -> str | None:
    """Return a prefix as clients have it, None if there is none.

    :raises TypeError: for what is no text

    """
    # Its callers may not be typed.
    given: typing.Any = prefix
    if given is not None and not isinstance(given, str):
        raise TypeError(
            f'prefix is {words.shown(given)}; expected a string, as in'
            " Client('pages') for PAGES_MEMCACHED_SERVERS, or None"
        )
    return prefix.upper() if prefix else None


def prefix_names(prefixes: abc.Collection[str | None]) -> list[str | None]:
    """Return several prefixes as clients have them, each once.

    :raises TypeError: for what is no collection of prefixes

    """
    given: typing.Any = prefixes
    # One is a collection of letters, and each of these would be a prefix.
    if isinstance(given, str | bytes) or not isinstance(given, abc.Collection):
        raise TypeError(
            f'memcached_prefixes is {words.shown(given)}; expected a list of'
            " prefixes, as in ['pages']"
        )
    return list(dict.fromkeys(prefix_name(prefix) for prefix in prefixes))


def variable(name: str, prefix: str | None) -> str:
    """Return the environment variable of an option for a prefix."""
    start = f'{prefix.upper()}_' if prefix else ''
    return f'{start}MEMCACHED_{name.upper()}'


def variables(name: str, prefix: str | None) -> tuple[str, ...]:
    """Return the variables that may set an option: the first one counts."""
    prefixes = [None] if not prefix else [prefix, plain_prefix(prefix), None]
    return tuple(dict.fromkeys(variable(name, each) for each in prefixes))


def plain_prefix(prefix: str) -> str:
    """Return a prefix as a shell can export it: ``MY_APP`` for ``my-app``."""
    return re.sub('[^A-Z0-9_]', '_', prefix.upper())


SECRETS = frozenset(('password',))
"""Options that are shown nowhere."""


def hide(
    options: dict[str, typing.Any], known: abc.Container[str] = OPTIONS
) -> None:
    """Wrap what is secret, or may be, in the very dict that a frame has.

    It is the first thing to do with options that were given as keywords.

    :param dict options: the options
    :param known: the names that there are; a value by another name may be
        anything, a password too

    """
    for name, value in options.items():
        if value is None or isinstance(value, Secret):
            continue
        if name == 'servers':
            options[name] = hide_servers(value)
        elif (
            name in SECRETS
            or name not in known
            # Somebody may have put the password behind it.
            or (name == 'username' and not _is_username(value))
        ):
            options[name] = Secret(value)


def lookup(name: str, prefix: str | None) -> tuple[str, typing.Any] | None:
    """Return the variable that sets an option, and its text, if one does.

    An empty variable counts as unset.  What is secret, or may be, is wrapped.

    """
    for key in variables(name, prefix):
        if os.environ.get(key, '').strip():
            found = {name: os.environ[key]}
            hide(found)
            return key, found[name]
    return None


class Settings:
    """The options of one client, read once.

    Each option is an attribute; ``sources`` says for each where it comes
    from: the name of a variable, ``'keyword'`` or ``'default'``.

    :param str prefix: the prefix of the variables, or None
    :param dict options: options given as keywords, which win
    :raises TypeError: for an option that there is not
    :raises ValueError: for a value that cannot be; it names the variable

    """

    servers: list[Weighted]
    socket_timeout: float
    dead_retry: float
    max_connections: int
    max_idle: float
    key_prefix: bytes
    hash_bad_keys: bool
    min_compress_len: int
    compression: str
    max_value_len: int
    max_parts: int
    max_inflated_len: int
    serializer: typing.Any
    distribution: str
    max_discovered: int
    failover: bool
    username: str | None
    password: Secret | None
    tls: bool
    tls_ca_file: str | None
    tls_cert_file: str | None
    tls_key_file: str | None
    tls_server_name: str | None
    trace_keys: bool

    def __init__(
        self, prefix: str | None, options: abc.Mapping[str, typing.Any]
    ) -> None:
        options = dict(options)
        hide(options)
        self.prefix = prefix = prefix_name(prefix)
        self.sources: dict[str, str] = {}
        for name in options:
            if name not in OPTIONS:
                meant = words.meant(name, OPTIONS)
                hint = '' if meant is None else f', do you mean {meant}?'
                raise TypeError(
                    f'unknown option {name!r}{hint}; there are'
                    f' {", ".join(OPTIONS)}'
                )
        for name, option in OPTIONS.items():
            value, source = option.default, 'default'
            if options.get(name) is not None:
                value, source = options[name], 'keyword'
            elif found := lookup(name, prefix):
                source, value = found
            if source != 'default':
                try:
                    value = option.parse(value)
                except ValueError as error:
                    where = name if source == 'keyword' else source
                    raise ValueError(f'{where}: {error}') from None
            setattr(self, name, value)
            self.sources[name] = source
        self._check_together()

    def _check_together(self) -> None:
        """Refuse options that make no sense together.

        :raises ValueError: that names them

        """
        if self.sources['max_idle'] == 'default':
            self.max_idle = max(self.max_idle, self.socket_timeout)
        elif self.max_idle < self.socket_timeout:
            raise ValueError(
                f'{self._where("max_idle")}: {self.max_idle:g} seconds, which'
                f' is less than socket_timeout, {self.socket_timeout:g}'
            )
        if self.max_parts > 1 and self.max_value_len < LEAST_PARTED:
            raise ValueError(
                f'{self._where("max_parts")}: {self.max_parts} parts, with a'
                f' max_value_len of {self.max_value_len}; expected one of'
                f' {LEAST_PARTED} bytes or more, which is that of a part'
            )
        for name, needed in _NEEDED.items():
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(
                    f'{self._where(name)}: no {needed} with it; expected both'
                )
        files = self._files
        for name, part in (
            ('tls_ca_file', files._replace(cert_file=None, key_file=None)),
            ('tls_cert_file', files._replace(ca_file=None)),
        ):
            if getattr(self, name):
                try:
                    certificates.check(part)
                except OSError as error:
                    raise ValueError(f'{self._where(name)}: {error}') from None

    def _where(self, name: str) -> str:
        """Return how an option is named in an error."""
        source = self.sources[name]
        return source if source.isupper() else name

    @property
    def credentials(self) -> Credentials | None:
        """The user name with the password, if there are any."""
        if self.username is None or self.password is None:
            return None
        return Credentials(self.username, self.password)

    @property
    def _files(self) -> certificates.Files:
        return certificates.Files(
            self.tls_ca_file, self.tls_cert_file, self.tls_key_file
        )

    def tls_for(self, address: Address) -> Tls | None:
        """Return how connections to a server are encrypted, if they are.

        :raises ValueError: if the server has no name

        """
        if not self.tls or address.family in IN_PROCESS:
            return None
        if address.family == 'unix' and not self.tls_server_name:
            raise ValueError(
                f'tls: no tls_server_name for {address}; expected the name in'
                ' its certificate'
            )
        return Tls(self._files, self.tls_server_name)


def get_servers(prefix: str | None) -> list[Weighted]:
    """Return the servers of ``<PREFIX>_MEMCACHED_SERVERS``.

    Where that is not set it is ``MEMCACHED_SERVERS`` that counts, and where
    neither is, :data:`DEFAULT_SERVER`.

    :param str prefix: the prefix of the variable, or None
    :rtype: list
    :return: strings, and ``(string, weight)`` for those with a weight
    :raises ValueError: that names the variable and what is wrong with it

    """
    found = lookup('servers', prefix)
    if found is None:
        return [DEFAULT_SERVER]
    try:
        return _servers(found[1])
    except ValueError as error:
        raise ValueError(f'{found[0]}: {error}') from None
