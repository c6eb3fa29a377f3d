"""A method is described once: same errors and same values on both faces."""

import inspect
import json
import pathlib
import re
import threading
import time
import zlib

import faces
import faults
import pytest

from sprockets.clients import memcached
from sprockets.clients.memcached import aio
from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.requests import encodings, methods
from sprockets.clients.memcached.testing import MemcachedServer
from sprockets.clients.memcached.wire import protocol

HIT = b'VALUE 1 0 1\r\nx\r\nEND\r\n'


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Give up on a call that never ends."""
    monkeypatch.setattr(faces, 'SECONDS', 10)


@pytest.fixture
def address(memcached_server):
    return memcached_server.address


# The two faces


def public(kind):
    return {
        name: member
        for name, member in vars(kind).items()
        if not name.startswith('_') and inspect.isfunction(member)
    }


def parameters(function):
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(function).parameters.values()
    ]


def test_both_faces_have_the_same_methods():
    """With the same arguments and the same defaults."""
    blocking, awaitable = public(memcached.Client), public(aio.Methods)
    assert blocking.keys() == awaitable.keys()
    for name, function in blocking.items():
        assert parameters(function) == parameters(awaitable[name]), name


def test_each_argument_is_described():
    """Where it, or a method with the same ones, is looked up."""
    for name, function in public(memcached.Client).items():
        said = inspect.getdoc(function)
        same = re.search(r'as :meth:`\w+`[.,]|arguments\s+are those of', said)
        for argument in list(inspect.signature(function).parameters)[1:]:
            described = rf':param( \w+)? {argument}:'
            assert same or re.search(described, said), (name, argument)


def test_which_methods_are_coroutines_is_told():
    """They do nothing before they are awaited."""
    everything = public(aio.Methods) | public(memcached.AsyncClient)
    coroutines = {
        name
        for name, function in everything.items()
        if inspect.iscoroutinefunction(function)
    }
    said = inspect.getdoc(memcached.AsyncClient).partition('coroutines,')[2]
    said = said.partition('\n\n')[0]
    assert set(re.findall(r':meth:`(\w+)`', said)) == coroutines
    page = pathlib.Path(__file__).parents[1] / 'docs/howto/timeouts.rst'
    told = page.read_text().rpartition('\n\n``')[2].partition('are corout')[0]
    assert {*re.findall(r'\w+_?\w+', told)} - {'and'} == coroutines - {'close'}


def test_nothing_is_left_of_python_memcached_s_methods():
    """Its way to the servers is not ours."""
    ours = public(memcached.Client).keys() | {
        name
        for name, member in vars(memcached.Client).items()
        if isinstance(member, property)
    }
    theirs = public(memcached.Client.__mro__[1])
    # They only say something of the arguments, or print.
    assert theirs.keys() - ours == {'check_key', 'debuglog'}


def test_a_scope_has_the_methods_of_its_client():
    """And none besides."""
    assert public(aio.Scope).keys() <= public(aio.Methods).keys()
    assert public(aio.AsyncClient).keys() - public(aio.Methods).keys() == {
        'scope',
        'close',
    }


def test_both_faces_take_the_options_of_python_memcached(connect, address):
    """With the same effect; None is its word for its default."""
    client = connect(
        address,
        key_encoder='encoded:{}'.format,
        server_max_key_length=12,
        server_max_value_length=100,
        check_keys=True,
        pload=None,
        pid=None,
        debug=0,
    )
    assert client.set('a', 'x' * 100)
    assert not client.set('a', 'x' * 101)
    plain = connect(
        address,
        key_encoder=None,
        server_max_key_length=None,
        server_max_value_length=None,
    )
    assert plain.set('encoded:b', 'x' * 1000)
    assert client.get('b') == 'x' * 1000
    with pytest.raises(memcached.Client.MemcachedKeyLengthError):
        client.get('abcde')
    with pytest.raises(memcached.Client.MemcachedKeyLengthError):
        plain.get('x' * 251)
    with pytest.raises(TypeError, match='nonsense'):
        connect(address, nonsense=1)


@pytest.mark.parametrize(
    'keys',
    [
        [0, -1, 2**80],
        ['a', 1, 'b'],
        [True, 1.5],
        [b'a', b'\xff', 'ü', 1],
        [(7, 'a'), (-8, b'b'), 'c', 3],
    ],
    ids=repr,
)
@pytest.mark.parametrize('prefix', ['', 'p:', 'ü'])
def test_keys_of_many_kinds_are_sent_as_their_text(
    connect, address, keys, prefix
):
    """One at a time or all together, they are the same keys."""
    client = connect(address)
    mapping = {key: number for number, key in enumerate(keys)}
    assert client.set_multi(mapping, key_prefix=prefix) == []
    assert client.get_multi(keys, prefix) == mapping
    for key in keys:
        assert client.get_multi([key], prefix) == {key: mapping[key]}
    assert client.delete_multi(keys, key_prefix=prefix) == 1
    assert client.get_multi(keys, prefix) == {}


# What raises while a result is made


class NoHash:
    """A key that can be sent, and cannot be in a dict."""

    def __init__(self, from_now_on=True):
        self.raises = from_now_on

    def __str__(self):
        return '1'

    def __hash__(self):
        if self.raises:
            raise ArithmeticError('no hash')
        self.raises = True
        return 1


class NoEquality:
    """Two of them have the same hash, and cannot be compared."""

    def __str__(self):
        return '1'

    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise ArithmeticError('no equality')


class NoText:
    """A key that cannot be sent."""

    def __str__(self):
        raise ArithmeticError('no text')


@pytest.mark.parametrize(
    'keys, error',
    [
        ([[1]], TypeError),
        (['1', {1}], TypeError),
        ([{}], TypeError),
        ([NoHash()], ArithmeticError),
        ([NoEquality(), NoEquality()], ArithmeticError),
        ([NoText()], ArithmeticError),
    ],
    ids=['list', 'set', 'dict', 'hash', 'equality', 'text'],
)
def test_keys_that_cannot_be_in_a_dict(connect, keys, error):
    """They are refused before anything is sent, with Python's own words."""
    encoder = None
    if not isinstance(keys[0], NoText):
        # What is sent is a good key each time.
        def encoder(key):
            return '1'

    with faults.ScriptedServer(*[[HIT]] * 3) as server:
        client = connect(server.address, socket_timeout=1, key_encoder=encoder)
        with pytest.raises(error):
            client.get_multi(keys)
        assert not server.connections


def test_the_words_of_a_key_that_cannot_be_in_a_dict(connect, address):
    """They are those of a dict."""
    try:
        {}[[1]] = 'v'
    except TypeError as error:
        words = str(error)
    client = connect(address)
    client.set('[1]', 'v')
    with pytest.raises(TypeError) as caught:
        client.get_multi([[1]])
    assert str(caught.value) == words


def test_a_key_whose_hash_fails_later(connect, address):
    """The caller gets the error, whenever it is raised."""
    client = connect(address)
    client.set('1', 'v')
    with pytest.raises(ArithmeticError, match='no hash'):
        client.get_multi([NoHash(from_now_on=False)])
    assert client.get('1') == 'v'


def raising(*_):
    raise ArithmeticError('refused')


CALLS = {
    'get': lambda client: client.get('k'),
    'gets': lambda client: client.gets('k'),
    'gat': lambda client: client.gat('k', 60),
    'get_multi': lambda client: client.get_multi(['k']),
    'set': lambda client: client.set('k', [1]),
    'add': lambda client: client.add('k', [1]),
    'cas': lambda client: client.cas('k', [1]),
    'set_multi': lambda client: client.set_multi({'k': [1]}),
    'incr': lambda client: client.incr('k'),
    'touch': lambda client: client.touch('k', 60),
    'delete': lambda client: client.delete('k'),
    'delete_multi': lambda client: client.delete_multi(['k']),
}


@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_a_key_encoder_that_raises(connect, call):
    """Its error is the caller's, at once."""
    with faults.ScriptedServer(*[[HIT]] * 3) as server:
        client = connect(server.address, key_encoder=raising)
        with pytest.raises(ArithmeticError, match='refused'):
            call(client)
        assert not server.connections


@pytest.mark.parametrize('name', ['set', 'add', 'set_multi'])
@pytest.mark.parametrize('option', ['pickler', 'compressor'])
def test_what_makes_bytes_raises(connect, name, option):
    """Its error is the caller's, at once."""
    options = {option: raising, 'min_compress_len': 1}
    with faults.ScriptedServer(*[[HIT]] * 3) as server:
        client = connect(server.address, **options)
        with pytest.raises(ArithmeticError, match='refused'):
            CALLS[name](client)
        assert not server.connections


@pytest.mark.parametrize('option', ['unpickler', 'decompressor'])
def test_what_makes_values_raises(connect, address, option):
    """It is a miss, whichever method reads."""
    client = connect(address, min_compress_len=1)
    value = ['x' * 1000]
    assert client.set('k', value)
    assert client.gets('k') == value
    broken = connect(address, **{option: raising})
    assert broken.get('k', 'miss') == 'miss'
    assert broken.gets('k') is None
    assert broken.gat('k', 60, 'miss') == 'miss'
    assert broken.gats('k', 60) is None
    assert broken.get_multi(['k']) == {}


class Ear:
    """Hears of each call, and raises when one is over."""

    def __init__(self):
        self.over_count = 0

    def observe(self, method, keys):
        return self

    def over(self, error, hits, misses, endpoint=None):
        self.over_count += 1
        raise ArithmeticError('over')


async def _use(address, observe, call):
    client = memcached.AsyncClient(servers=address)
    scope = client.scope(observe)
    try:
        if call is CALLS['cas']:
            await scope.gets('k')
        return await call(scope)
    finally:
        await client.close()


@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_an_observer_that_raises_when_a_call_is_over(call, address):
    """The caller gets its result all the same."""
    face = faces.Awaitable(memcached.AsyncClient(servers=address))
    ear = Ear()
    face.run(lambda: _use(address, ear.observe, call))
    assert ear.over_count
    face.close()


@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_an_observer_that_refuses_a_call(call, address):
    """The caller gets the error."""
    face = faces.Awaitable(memcached.AsyncClient(servers=address))
    with pytest.raises(ArithmeticError, match='refused'):
        face.run(lambda: _use(address, raising, call))
    face.close()


# Statistics that nobody expects


@pytest.mark.parametrize(
    'method, sent, arranged',
    [
        (
            'get_slab_stats',
            ['1 x', '1:chunk 96'],
            {'1': 'x', '1:chunk': '96'},
        ),
        (
            'get_slab_stats',
            ['1:chunk 96', '2:chunk 5', '1 x'],
            {'1:chunk': '96', '2': {'chunk': '5'}, '1': 'x'},
        ),
        (
            'get_slab_stats',
            ['1:a:b 1', '1:a 2', ': 3', '1: 4', ' 5'],
            {'1': {'a:b': '1', 'a': '2', '': '4'}, '': '5', ':': '3'},
        ),
        (
            'get_slabs',
            ['1 x', 'items:1:number 3', 'items:2:number 4', 'items:1 y'],
            {
                '1': 'x',
                'items:1:number': '3',
                '2': {'number': '4'},
                'items:1': 'y',
            },
        ),
        (
            'get_slabs',
            ['items:1:number 3', 'others:1:number 4'],
            {'1': {'number': '3'}, 'others:1:number': '4'},
        ),
    ],
)
def test_statistics_of_slabs_that_are_odd(connect, method, sent, arranged):
    """What cannot be arranged is text, under the name that it came with."""
    reply = b''.join([f'STAT {line}\r\n'.encode() for line in sent])
    with faults.ScriptedServer([reply + b'END\r\n']) as server:
        client = connect(server.address, socket_timeout=2)
        [(_, statistics)] = getattr(client, method)()
    assert statistics == arranged


# Values: in which thread they are made, and how often


class Places:
    """Notes the threads in which something was done."""

    def __init__(self, work):
        self._work = work
        self.threads = set()

    def __call__(self, data):
        self.threads.add(threading.current_thread())
        return self._work(data)


READS = {
    'get': lambda client: client.get('k0'),
    'gets': lambda client: client.gets('k0'),
    'gat': lambda client: client.gat('k0', 60),
    'gats': lambda client: client.gats('k0', 60),
    'get_multi': lambda client: client.get_multi(['k0', 'k1'])['k0'],
}


@pytest.mark.parametrize('read', READS.values(), ids=READS)
def test_what_is_compressed_is_not_inflated_in_the_loop(read, address):
    """Nobody knows how large it is."""
    value = 'x' * 100_000
    places = Places(zlib.decompress)
    face = faces.Awaitable(
        memcached.AsyncClient(
            servers=address, min_compress_len=1000, decompressor=places
        )
    )
    assert face.set_multi({'k0': value, 'k1': value}) == []
    assert read(face) == value
    assert places.threads
    assert threading.current_thread() not in places.threads
    face.close()


class Slow:
    """JSON, which takes note of the thread in which it is read."""

    def __init__(self):
        self.loads = Places(json.loads)

    def dumps(self, value):
        return json.dumps(value)


@pytest.mark.parametrize('read', READS.values(), ids=READS)
def test_what_is_large_is_not_deserialized_in_the_loop(read, address):
    """More than 64 KiB of it, that is."""
    value = ['x' * 100_000]
    slow = Slow()
    face = faces.Awaitable(
        memcached.AsyncClient(servers=address, serializer=slow)
    )
    assert face.set_multi({'k0': value, 'k1': value}) == []
    assert read(face) == value
    assert threading.current_thread() not in slow.loads.threads
    face.close()


def test_many_small_values_are_too_much_for_the_loop(address):
    """It is the sum that counts."""
    value = ['x' * 1000]
    slow = Slow()
    face = faces.Awaitable(
        memcached.AsyncClient(servers=address, serializer=slow)
    )
    mapping = {f'k{number}': value for number in range(200)}
    assert face.set_multi(mapping) == []
    assert face.get_multi(mapping) == mapping
    assert threading.current_thread() not in slow.loads.threads
    face.close()


def test_a_small_value_does_not_wait_for_a_thread(address):
    """It is there when the reply is."""
    slow = Slow()
    face = faces.Awaitable(
        memcached.AsyncClient(servers=address, serializer=slow)
    )
    face.set('k0', [1])
    for read in (READS['gets'], READS['gat']):
        slow.loads.threads.clear()
        assert read(face) == [1]
        assert slow.loads.threads == {threading.current_thread()}
    face.close()


@pytest.mark.parametrize(
    'keys',
    [[1, '1'], [1, 1.0, '1'], ['1', (0, '1')], [b'1', '1', (7, b'1')]],
    ids=repr,
)
def test_keys_that_are_sent_alike_have_values_of_their_own(
    connect, address, keys
):
    """A change to one is no change to another."""
    client = connect(address)
    client.set('1', ['v'])
    client.set('1.0', ['v'])
    found = client.get_multi(keys)
    assert found == {key: ['v'] for key in keys}
    assert len({id(value) for value in found.values()}) == len(found)


def test_a_key_that_comes_thousands_of_times(connect, address):
    """More often than goes into one command."""
    client = connect(address)
    client.set('1', ['v'])
    client.set('2', ['w'])
    keys = ['1', '2', '1'] * 1500
    assert client.get_multi(keys) == {'1': ['v'], '2': ['w']}
    assert client.set_multi({'1': 1, 1: 2, (0, '1'): 3}) == []
    assert client.get('1') == 3
    assert client.delete_multi(keys) == 1
    assert client.get_multi(keys) == {}


def test_the_order_of_values_is_that_of_the_keys(connect, address):
    """Whichever server is faster."""
    client = connect(address)
    keys = [f'key{number}' for number in range(3000)]
    assert client.set_multi(dict.fromkeys(keys, 1)) == []
    assert [*client.get_multi(reversed(keys))] == keys[::-1]


def _seconds_to_make(count, servers):
    """Return the CPU time to put together what many servers brought."""
    keys = [f'key{number}' for number in range(count)]
    request = methods.get_multi(encodings.Encoding(values.Codec()), keys, '')
    assert len(request.keys.keys) == count
    share = count // servers
    made = []
    for number in range(servers):
        places = range(number * share, (number + 1) * share)
        made += request.commands_for(places)
    for command in made:
        assert isinstance(command, protocol.Get)
        reply = b''.join(
            b'VALUE %b 16 5\r\nvalue\r\n' % key for key in command.keys
        )
        lines = (reply + b'END\r\n').split(b'\r\n')
        assert command.take(lines, 0) == len(lines) - 1
    began = time.process_time()
    for command in made:
        request.unpack(command)
    found = request.result()
    seconds = time.process_time() - began
    assert found == dict.fromkeys(keys, 'value')
    return seconds


def test_values_of_many_servers_are_put_together_in_one_pass():
    """16 times as many servers and keys take 16 times as long, not 256."""
    few = min([_seconds_to_make(5_000, 500) for _ in range(5)])
    many = min([_seconds_to_make(80_000, 8_000) for _ in range(3)])
    # Between the two, for a processor has room for the few near by.
    assert many < 80 * few


# Many keys are checked in parts, before anything is sent

MANY = 2 * encodings.PART + 1


def many(last):
    return [*(f'key{number}' for number in range(MANY)), last]


@pytest.mark.parametrize(
    'method, argument, error',
    [
        ('get_multi', many('a blank'), memcached.Client.MemcachedKeyError),
        ('get_multi', many({1}), TypeError),
        ('delete_multi', many('a blank'), memcached.Client.MemcachedKeyError),
        (
            'set_multi',
            dict.fromkeys(many('a blank'), 1),
            memcached.Client.MemcachedKeyError,
        ),
        (
            'set_multi',
            dict.fromkeys(many('k'), 1) | {'last': '\ud800'},
            UnicodeEncodeError,
        ),
    ],
    ids=['get', 'unhashable', 'delete', 'set', 'value'],
)
def test_a_mistake_behind_many_keys(connect, method, argument, error):
    """The last argument is as good as the first, and nothing is sent."""
    with faults.ScriptedServer([]) as server:
        client = connect(server.address)
        with pytest.raises(error):
            getattr(client, method)(argument)
        assert server.received == b''


def test_a_hash_behind_many_keys(connect):
    """It counts, and the keys before it have none."""
    with MemcachedServer() as one, MemcachedServer() as other:
        client = connect(one.address, other.address)
        keys = many((0, 'hashed'))
        keys.append('behind')
        assert client.set_multi({key: str(key) for key in keys}) == []
        assert client.get_multi(keys) == {key: str(key) for key in keys}
        for key in 'key0', 'behind', (0, 'hashed'):
            assert client.get(key) == str(key)
        assert connect(one.address).get('hashed') == str((0, 'hashed'))
        assert client.delete_multi(keys) == 1
        assert client.get_multi(keys) == {}


def test_what_is_stored_is_what_there_was_when_it_was_called():
    """Though it is encoded later."""
    pairs = {f'key{number}': number for number in range(MANY)}
    given = dict(pairs)
    request = methods.set_multi(
        encodings.Encoding(values.Codec()), given, 0, '', 0
    )
    given.clear()
    assert len(request.keys.keys) == MANY
    (command, *_) = request.commands_for(range(MANY - 1, MANY))
    assert command.request == b'set key%d 2 0 4\r\n%d\r\n' % (
        MANY - 1,
        MANY - 1,
    )


def test_a_part_is_less_than_a_slice_of_the_loop():
    """Of a million keys, none of the steps is for all of them."""
    keys = [f'key{number}' for number in range(100_000)]
    encoding = encodings.Encoding(values.Codec())
    for request in (
        methods.get_multi(encoding, keys, ''),
        methods.set_multi(encoding, dict.fromkeys(keys, 'v'), 0, '', 0),
        methods.delete_multi(encoding, keys, None, ''),
    ):
        steps = 1
        while request.prepare():
            steps += 1
        assert steps >= len(keys) / encodings.PART
        assert len(request.keys.keys) == len(keys)


# How much work a value is


@pytest.mark.parametrize(
    'flags, size, weight',
    [
        (0, 1 << 30, 0),
        (values.INTEGER, 1 << 30, 0),
        (values.TEXT, 100, 6),
        (values.TEXT, 4 << 20, 256 * 1024),
        (values.PICKLE, 100, 100),
        (values.JSON, 100, 100),
        (values.CUSTOM, 100, 100),
        (values.COMPRESSED, 1, values.HEAVY + 1),
        (values.COMPRESSED | values.TEXT, 1, values.HEAVY + 1),
        (values.COMPRESSED | values.PICKLE, 1, values.HEAVY + 1),
    ],
)
def test_weights(flags, size, weight):
    """Bytes to deserialize; text is checked, and much of it takes a while."""
    assert values.weight(flags, size) == weight
    assert values.weight_of([(flags, bytes(1), None)] * 3) == (
        3 * values.weight(flags, 1)
    )
