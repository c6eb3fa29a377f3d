"""The page for production: what it shows works, but for Docker itself."""

import configparser
import contextlib
import http.client
import importlib.util
import json
import logging
import logging.config
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import services
import snippets
from services import wait_until

from sprockets.clients import memcached
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.testing import MemcachedServer

DOCS = pathlib.Path(__file__).resolve().parent.parent / 'docs'
PAGE = DOCS / 'howto' / 'production.rst'
SNIPPETS = snippets.find(PAGE)
FILES = {s.caption: s.text.strip('\n') + '\n' for s in SNIPPETS if s.caption}

SECONDS = 60


@pytest.fixture
def folder(tmp_path):
    """All files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


class Running:
    """A command of the page that serves, and ends with the test."""

    def __init__(self, folder, port, *command, **environ):
        self.port = port
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, 'PORT': str(port), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        wait_until(self._answers, SECONDS)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def _answers(self):
        assert self.process.poll() is None, self.process.stderr.read()
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.get('/')
            return True
        return False

    def get(self, path):
        """Return the status and the body of an answer."""
        link = http.client.HTTPConnection(
            '127.0.0.1', self.port, timeout=SECONDS
        )
        with contextlib.closing(link):
            link.request('GET', path)
            response = link.getresponse()
            return response.status, response.read().decode()

    def end(self, number=signal.SIGTERM):
        """Tell the process to end, and return its status and complaints."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors


def environment(pairs, monkeypatch):
    """Return the settings that variables of the page come to."""
    for name, value in pairs.items():
        monkeypatch.setenv(name, value)
    read = settings.Settings('pages', {})
    used = {source for source in read.sources.values() if source.isupper()}
    assert used == {name for name in pairs if 'MEMCACHED' in name}
    return read


def statistics(arguments):
    """Run a memcached with arguments of the page; return its settings."""
    with MemcachedServer(*arguments) as server:
        client = memcached.Client(servers=server.address)
        ((_, found),) = client.get_stats('settings')
        large = memcached.Client(
            servers=server.address, max_value_len=2 * 1024 * 1024
        )
        assert large.set('key', b'x' * 2_000_000)
        client.disconnect_all()
        large.disconnect_all()
    return found


LIMITS = {'maxbytes': 256 << 20, 'maxconns': 1024, 'item_size_max': 2 << 20}


def check_limits(arguments, read):
    """Both sides are told of the same largest value."""
    found = statistics(arguments)
    assert {name: int(found[name]) for name in LIMITS} == LIMITS
    assert read.max_value_len == LIMITS['item_size_max']


def test_the_files_are_found():
    """A test of nothing would pass."""
    assert {
        *('service.py', 'several.py', 'shop.py', 'greenlets.py', 'faster.py'),
        *('Dockerfile', 'compose.yaml', 'memcached.yaml', 'pages.yaml'),
        *('pages.service', 'shop.ini'),
    } == set(FILES)


# In a container


def instructions():
    return [
        line.split(None, 1)
        for line in FILES['Dockerfile'].splitlines()
        if line and not line.startswith('#')
    ]


def command():
    (found,) = [rest for word, rest in instructions() if word == 'CMD']
    return json.loads(found)


def test_the_container_runs_what_is_copied_into_it():
    """And by itself: a shell would not pass SIGTERM on."""
    copied = [r.split()[0] for word, r in instructions() if word == 'COPY']
    interpreter, script = command()
    assert interpreter == 'python'
    assert script in copied
    assert set(copied) == {'requirements.txt', script}
    assert {word for word, _ in instructions()} <= {
        *('FROM', 'WORKDIR', 'COPY', 'RUN', 'USER', 'EXPOSE', 'CMD')
    }


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_service_answers_and_ends(folder, memcached_server, number):
    """As the container's first process, which alone gets the signal."""
    _, *arguments = command()
    port = services.free_port()
    with Running(folder, port, sys.executable, *arguments) as service:
        assert service.get('/') == (200, 'Hello')
        assert service.get('/health') == (200, 'well')
        assert service.get('/status/memcached')[0] == 200
        assert memcached.Client().get('front') == 'Hello'
        assert service.end(number) == (0, '')


def test_the_probe_does_not_ask_for_the_cache(folder, memcached_server):
    """An outage takes no pod out of service, and is seen elsewhere."""
    (probe,) = [
        container['readinessProbe']['httpGet']
        for document in documents('pages.yaml')
        for container in containers(document)
    ]
    memcached_server.kill()
    port = services.free_port()
    with Running(folder, port, sys.executable, 'service.py') as service:
        assert service.get('/') == (200, 'Hello')
        assert service.get(probe['path']) == (200, 'well')
        assert service.get('/status/memcached')[0] == 503


def test_several_processes_end_with_the_group(folder, memcached_server):
    """The parent too, and without a word."""
    port = services.free_port()
    with Running(folder, port, sys.executable, 'several.py') as service:
        assert service.get('/') == (200, 'Hello')
        os.killpg(service.process.pid, signal.SIGTERM)
        _, errors = service.process.communicate(timeout=SECONDS)
        # A child that was not ready has told it nothing.
        assert service.process.returncode == 0
        assert errors == ''


def test_processes_that_are_told_to_end_before_they_listen(
    folder, memcached_server
):
    """They do so as soon as they can."""
    run = '    asyncio.run(serve(sockets))\n'
    text = FILES['several.py']
    assert text.endswith(run)
    late = f"""\
    import pathlib, time
    pathlib.Path(f'{{os.getpid()}}.forked').touch()
    time.sleep(1)
{run}"""
    (folder / 'late.py').write_text(text.removesuffix(run) + late)
    service = Running(folder, services.free_port(), sys.executable, 'late.py')
    with contextlib.ExitStack() as stack:
        stack.push(service.__exit__)
        wait_until(lambda: len(list(folder.glob('*.forked'))) == 2, SECONDS)
        os.killpg(service.process.pid, signal.SIGTERM)
        _, errors = service.process.communicate(timeout=SECONDS)
        assert (service.process.returncode, errors) == (0, '')


def documents(name):
    """Return what is in a file of YAML."""
    yaml = pytest.importorskip('yaml', reason='PyYAML is not installed')
    return list(yaml.safe_load_all(FILES[name]))


def test_compose(monkeypatch):
    """Its services know each other, and its options are what they are."""
    (file,) = documents('compose.yaml')
    assert set(file['services']) == {'pages', 'memcached'}
    pages, cache = file['services']['pages'], file['services']['memcached']
    read = environment(pages['environment'], monkeypatch)
    assert read.servers == ['memcached']
    assert pages['stop_grace_period'] == '30s'
    program, *arguments = cache['command']
    assert program == 'memcached'
    check_limits(arguments, read)


# In Kubernetes


def containers(document):
    return document['spec']['template']['spec']['containers']


def test_the_pods_of_memcached_are_listed_by_their_names(monkeypatch):
    """Each of them, as the StatefulSet and its service name them."""
    service, stateful = documents('memcached.yaml')
    assert service['kind'] == 'Service'
    # PyYAML reads it as null, and Kubernetes as text.
    assert service['spec']['clusterIP'] == 'None'
    assert stateful['kind'] == 'StatefulSet'
    assert stateful['spec']['serviceName'] == service['metadata']['name']
    labels = stateful['spec']['template']['metadata']['labels']
    assert service['spec']['selector'] == labels
    assert stateful['spec']['selector']['matchLabels'] == labels
    (deployment,) = documents('pages.yaml')
    (pages,) = containers(deployment)
    read = environment(
        {each['name']: each['value'] for each in pages['env']}, monkeypatch
    )
    name = stateful['metadata']['name']
    assert read.servers == [
        f'{name}-{number}.{service["metadata"]["name"]}'
        for number in range(stateful['spec']['replicas'])
    ]
    assert read.distribution == 'ketama'
    (cache,) = containers(stateful)
    assert not {'livenessProbe', 'readinessProbe'} & set(cache)
    check_limits(cache['args'], read)


def test_the_deployment_gives_requests_their_time():
    """The pause and sprockets.http's five seconds, and then some."""
    (deployment,) = documents('pages.yaml')
    template = deployment['spec']['template']
    assert (
        deployment['spec']['selector']['matchLabels']
        == (template['metadata']['labels'])
    )
    (pages,) = template['spec']['containers']
    pause, seconds = pages['lifecycle']['preStop']['exec']['command']
    assert pause == 'sleep'
    assert template['spec']['terminationGracePeriodSeconds'] > (
        int(seconds) + 10
    )
    (port,) = pages['ports']
    assert pages['readinessProbe']['httpGet']['port'] == port['containerPort']
    assert 'livenessProbe' not in pages


# Under systemd


def unit():
    """Return the sections of the unit, of whose names some come twice."""
    sections = {}
    for line in FILES['pages.service'].splitlines():
        if line.startswith('['):
            section = sections.setdefault(line.strip('[]'), [])
        elif line and not line.startswith('#'):
            section.append(tuple(line.split('=', 1)))
    return sections


def test_the_unit_is_one(folder):
    """systemd says so, of one whose folder is there."""
    if shutil.which('systemd-analyze') is None:
        pytest.skip('systemd-analyze is not installed')
    programs = folder / 'env' / 'bin'
    programs.mkdir(parents=True)
    (programs / 'python').symlink_to(sys.executable)
    path = folder / 'pages.service'
    path.write_text(FILES['pages.service'].replace('/srv/pages', str(folder)))
    finished = subprocess.run(
        ['systemd-analyze', 'verify', path],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    # What else there is on this machine is not of interest.
    assert 'pages.service' not in finished.stderr, finished.stderr


def test_the_unit_runs_the_service(folder, memcached_server, monkeypatch):
    """With its variables, and ends it with all of its processes."""
    service = unit()['Service']
    variables = dict(
        value.split('=', 1) for name, value in service if name == 'Environment'
    )
    read = environment(
        {k: v for k, v in variables.items() if k != 'PORT'}, monkeypatch
    )
    assert read.servers == ['127.0.0.1:11211']
    assert 'KillMode' not in dict(service)
    interpreter, *arguments = dict(service)['ExecStart'].split()
    assert interpreter.startswith(dict(service)['WorkingDirectory'])
    variables |= {
        'PORT': str(port := services.free_port()),
        'PAGES_MEMCACHED_SERVERS': memcached_server.address,
    }
    with Running(
        folder, port, sys.executable, *arguments, **variables
    ) as running:
        assert running.get('/') == (200, 'Hello')
        assert running.end() == (0, '')


# WSGI


def commands():
    return [
        line.removeprefix('$ ')
        for snippet in SNIPPETS
        if snippet.language == 'console'
        for line in snippet.text.splitlines()
        if line.startswith('$ gunicorn')
    ]


@pytest.mark.parametrize('line', commands())
def test_gunicorn(line, folder, memcached_server):
    """With threads and with greenlets, and with eight visitors at once."""
    services.need('gunicorn')
    if 'gevent' in line:
        services.need('gevent')
    port = services.free_port()
    with Running(
        folder,
        port,
        *(sys.executable, '-m', *shlex.split(line)),
        *('--bind', f'127.0.0.1:{port}', '--log-level', 'warning'),
        *('--no-control-socket',) if has_control_socket() else (),
        PAGES_MEMCACHED_SERVERS=memcached_server.address,
    ) as running:
        answers = []
        visitors = [
            threading.Thread(target=lambda: answers.append(running.get('/')))
            for _ in range(8)
        ]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        assert answers == [(200, 'Hello')] * 8
        assert memcached.Client().get('front') == 'Hello'
        assert running.end()[0] == 0


def has_control_socket():
    """Whether gunicorn has an option that would be shared by tests."""
    shown = subprocess.run(
        [sys.executable, '-m', 'gunicorn', '--help'],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return '--no-control-socket' in shown.stdout


def test_uwsgi_may_start_threads():
    """Names are looked up in one, and SIGTERM is an end."""
    parser = configparser.ConfigParser()
    parser.read_string(FILES['shop.ini'])
    options = parser['uwsgi']
    assert options.getboolean('enable-threads')
    assert options.getboolean('die-on-term')
    assert options['module'] in commands()[0]


def test_uwsgi(folder, memcached_server):
    """Where it is there, which it has to be compiled for."""
    # Of this Python: another one has not what it needs.
    program = shutil.which('uwsgi', path=pathlib.Path(sys.executable).parent)
    if program is None:
        pytest.skip('uwsgi is not installed')
    port = services.free_port()
    path = folder / 'shop.ini'
    path.write_text(FILES['shop.ini'].replace(':8000', f'127.0.0.1:{port}'))
    with Running(
        folder,
        port,
        *(program, '--ini', path),
        # Named, so that it takes a thread to look it up.
        PAGES_MEMCACHED_SERVERS=f'localhost:{memcached_server.port}',
        PYTHONPATH=os.pathsep.join(sys.path),
    ) as running:
        assert running.get('/') == (200, 'Hello')
        assert memcached.Client().get('front') == 'Hello'
        assert running.end()[0] == 0


# Other loops, and none


def test_greenlets(folder, memcached_server):
    """The program ends, and has found all that it stored."""
    services.need('gevent')
    finished = subprocess.run(
        [sys.executable, 'greenlets.py'],
        cwd=folder,
        env={
            **os.environ,
            'PAGES_MEMCACHED_SERVERS': f'localhost:{memcached_server.port}',
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, '')


def test_uvloop(folder, memcached_server):
    """It serves and ends as ever."""
    services.need('uvloop')
    port = services.free_port()
    with Running(folder, port, sys.executable, 'faster.py') as service:
        assert service.get('/') == (200, 'Hello')
        assert service.end() == (0, '')


# How many connections


def test_the_formula_is_an_upper_bound(memcached_server, tmp_path):
    """A process with a loop and threads has no more as a rule."""
    with snippets.Session() as session:
        (formula,) = [s for s in SNIPPETS if 'def connections(' in s.text]
        session.run(formula)
        connections = session.names['connections']
    program = tmp_path / 'busy.py'
    program.write_text(BUSY)
    finished = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    # One is that of who counts.
    counted = int(finished.stdout) - 1
    assert 2 <= counted <= connections(1, threads=12, max_connections=2)


BUSY = """
import asyncio, concurrent.futures, statistics, threading
from sprockets.clients import memcached

options = {'max_connections': 2}

async def main():
    loop = memcached.AsyncClient(**options)
    client = memcached.Client(**options)
    other = memcached.Client(socket_timeout=5)
    counts = []
    ready = threading.Barrier(13)
    done = threading.Event()

    def call():
        ready.wait()
        while not done.is_set():
            client.set('key', 'x' * 100_000)

    with concurrent.futures.ThreadPoolExecutor(12) as executor:
        calls = [executor.submit(call) for _ in range(12)]
        await asyncio.to_thread(ready.wait)
        for _ in range(20):
            await asyncio.gather(
                *[loop.get(f'key{n}') for n in range(500)],
                *[loop.set(f'key{n}', 'x' * 1000) for n in range(500)],
            )
            ((_, found),) = await asyncio.to_thread(other.get_stats)
            counts.append(int(found['curr_connections']))
        done.set()
        for call in calls:
            call.result()
    # Now and then there is one that is being closed.  One of them is where
    # memcached listens.
    print(statistics.median_low(counts) - 1)
    await loop.close()

asyncio.run(main())
"""


# The log


def test_the_log_of_the_service(folder, monkeypatch, capsys):
    """Its loggers are those of the package, and it says what happens."""
    spec = importlib.util.spec_from_file_location(
        'service_of_the_page', folder / 'service.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert memcached.__name__ in module.LOGGING['loggers']
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    names = list(module.LOGGING['loggers'])
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        logging.config.dictConfig(module.LOGGING)
        with MemcachedServer() as server:
            client = memcached.Client(servers=server.address, dead_retry=0.01)
            server.kill()
            client.get('key')
            server.start()
            wait_until(lambda: client.set('key', 'value'))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in names:
            logging.getLogger(name).setLevel(levels[name])
    printed = capsys.readouterr().out
    assert re.search(
        r'WARNING \S+health: memcached server \S+ is down', printed
    )
    assert re.search(r'INFO \S+health: memcached server \S+ is up', printed)


def test_the_loggers_of_the_table_are_there():
    """With the levels that the page on the log has."""
    page = PAGE.read_text('utf-8')
    rows = re.findall(
        r'^   \* - ([A-Z]+)\n     - (``.+``)\n', page, re.MULTILINE
    )
    assert len(rows) > 5
    full = (DOCS / 'howto' / 'logging.rst').read_text('utf-8')
    for level, names in rows:
        for name in re.findall(r'``([\w.]+)``', names):
            assert f'   * - ``{name}``\n     - {level}\n' in full, name
