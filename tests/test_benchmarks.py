"""The benchmarks measure what they say, and the docs say what they measure."""

import asyncio
import gc
import json
import pathlib
import re
import subprocess
import sys
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Its scripts are modules that only this needs.
sys.path[:0] = [str(ROOT), str(ROOT / 'scripts')]

import commands  # noqa: E402

from benchmarks import (  # noqa: E402
    blocking,
    bounds,
    contenders,
    data,
    document,
    early,
    figures,
    goals,
    libraries,
    loads,
    loops,
    main,
    packages,
    results,
    revisions,
    rounds,
    scenarios,
    servers,
    start,
    tables,
    turns,
)
from benchmarks.scenarios import instructions  # noqa: E402

SECONDS = 100
OURS = contenders.OURS
README = (ROOT / 'benchmarks' / 'README.rst').read_text('utf-8')
ROWS = {scenario.NAME: scenario.CELLS for scenario in scenarios.ALL}


@pytest.fixture(autouse=True)
def not_frozen(monkeypatch):
    """A load freezes what there is, in a process of its own otherwise.

    Here that would be fixtures, and to thaw them all would thaw the collected
    tests too, which every collection of garbage looks at from then on.

    """
    monkeypatch.setattr(gc, 'freeze', lambda: None)


@pytest.fixture(scope='module')
def port():
    """A memcached with the keys that contenders read."""
    with servers.memcached() as port:
        servers.fill(port, [100])
        yield port


@pytest.fixture(scope='module')
def secure():
    """The port of one that speaks TLS, and the file of its authority."""
    with (
        servers.certificates() as files,
        servers.memcached(files) as port,
    ):
        servers.fill(port, [100], files.authority)
        yield port, files.authority


def run(name, load, ports, authority=None, **parameters):
    """Put a load on a contender."""
    there = {**contenders.ASYNCHRONOUS, **bounds.ASYNCHRONOUS}
    addresses = [('127.0.0.1', port) for port in ports]
    return asyncio.run(
        loads.run(
            *(there[name](), load, addresses, authority),
            **{'seconds': 0.1, 'warm_up': 0.05, **parameters},
        )
    )


# Contenders and loads


def work(kind, port, **task):
    """Have a process do a task on the server at a port."""
    return work_on(kind, addresses=[('127.0.0.1', port)], **task)


def work_on(kind, **task):
    """Have a process do a task: some clients leave their sockets open."""
    found = rounds.work({'kind': kind, **task})
    assert 'error' not in found, found
    return found


@pytest.mark.parametrize('name', contenders.ASYNCHRONOUS)
def test_each_contender_reads_writes_and_counts(name, port):
    """And its answers are right, or the load would fail."""
    found = work(
        'asynchronous',
        port,
        loop='asyncio',
        contender=name,
        options={},
        load='mixed',
        callers=5,
        shares=[1, 1, 1],
        seconds=0.1,
        warm_up=0.05,
    )
    assert found['reads_per_second'] > 0
    assert 0 < found['p50'] <= found['p99']
    assert 1 <= found['connections'] <= contenders.POOL_SIZE


@pytest.mark.parametrize('name', scenarios.tls.SPEAKING)
def test_contenders_that_can_speak_tls(name, secure):
    """A server that speaks nothing else answers them."""
    port, authority = secure
    found = work(
        'asynchronous',
        port,
        loop='asyncio',
        contender=name,
        options={},
        authority=str(authority),
        load='closed',
        callers=5,
        seconds=0.1,
        warm_up=0.05,
    )
    assert found['reads_per_second'] > 0


def test_a_wrong_answer_ends_a_load(port):
    """Nobody is fast at being wrong."""

    class Wrong(contenders.Sprockets):
        async def start(self, *arguments):
            await super().start(*arguments)
            self.get = self.wrong

        async def wrong(self, key):
            return b'wrong'

    load = loads.run(
        *(Wrong(), 'closed', [('127.0.0.1', port)]),
        callers=2,
        seconds=5,
        warm_up=5,
    )
    with pytest.raises(loads.WrongAnswerError):
        asyncio.run(load)


def test_callers_that_begin(secure):
    """The longest turn of the loop, handshakes included."""
    port, authority = secure
    found = run(OURS, 'begun', [port], authority, callers=20)
    # They are two clocks'.
    assert found['held'] * 1.1 > found['busy'] > 0


def test_arrivals(port):
    """As many as are planned have their answers."""
    found = run(OURS, 'poisson', [port], rate=500, seconds=0.5)
    assert 50 < found['reads_per_second'] < 5_000
    assert 0 < found['noticed_p50'] <= found['p50'] <= found['p99']


def test_memory_of_reads_that_wait(monkeypatch):
    """A future is the least that there must be."""
    # A busy machine takes longer than so many reads wait in a service.
    monkeypatch.setattr(loads, 'WAITING', 1000)
    monkeypatch.setenv('MEMCACHED_SOCKET_TIMEOUT', '5')
    with servers.silent() as silent:
        found = run(OURS, 'waiting', [silent], counting=False)
    assert 100 < found['bytes'] < 10_000


def test_memory_of_an_idle_client():
    """It grows with the servers."""
    with servers.memcached_on_many_ports(20) as ports:
        assert len(set(ports)) == 20
        servers.fill(ports[0], [100])
        few, many = (
            run(OURS, 'idle', some)['bytes'] for some in (ports[:2], ports)
        )
    assert 0 < few < many


@pytest.mark.parametrize('name', [OURS, *bounds.ASYNCHRONOUS])
@pytest.mark.parametrize('callers', instructions.READS)
def test_reads_that_are_counted(name, callers, port):
    """Of clients, and of what no client can do without."""
    task = {'name': name, 'port': port, 'loop': 'asyncio', 'authority': None}
    instructions._run(callers=callers, reads=3, **task)


def test_instructions_are_those_of_the_reads_that_are_more():
    """Divided by how many these are; the least of all rounds counts."""

    class Done:
        def __init__(self, count):
            self.count = count

        def result(self):
            if self.count is None:
                raise RuntimeError('first\nit failed')
            return self.count

    few, many = instructions.READS[64]
    more = 64 * (many - few) * 123
    found = instructions.of_a_read(
        64,
        [
            {few: Done(1_000_007), many: Done(1_000_000 + more)},
            {few: Done(1_000_000), many: Done(1_000_009 + more)},
        ],
    )
    assert found == {'instructions': 123}
    failed = [{few: Done(5), many: Done(None)}]
    assert instructions.of_a_read(64, failed) == {'error': 'it failed'}


@pytest.mark.parametrize('operation', ['get', 'set', 'get_multi', 'set_multi'])
def test_blocking_clients(operation, port):
    """Each that has it takes its turns, and answers right."""
    found = work(
        'blocking',
        port,
        names=list(blocking.CLIENTS),
        operation=operation,
        size=100,
        turns=2,
    )
    assert {OURS, 'python-memcached', 'bare socket'} <= set(found)
    for figures_ in found.values():
        turns = figures_['turns']
        assert len(turns) == 2
        assert all(turn['cpu'] > 0 for turn in turns)


def test_a_blocking_client_that_is_wrong(port, monkeypatch):
    """Its error is its result, and the others go on."""

    class Wrong:
        def __init__(self, addresses):
            self.get = {}.get

    monkeypatch.setitem(blocking.CLIENTS, 'wrong', Wrong)
    found = blocking.run(['wrong', OURS], 'get', 100, [('127.0.0.1', port)], 2)
    assert found['wrong']['error'].startswith('ValueError: ')
    assert len(found[OURS]['turns']) == 2


@pytest.mark.parametrize('thread', [False, True])
def test_the_thread_of_a_blocking_client(thread, monkeypatch):
    """It is made, and called, in the main thread or in another one."""
    seen = set()

    class Seen(dict):
        def __init__(self, addresses):
            names = data.names(100)
            super().__init__((name, data.value(name, 100)) for name in names)

        def get(self, key):
            seen.add(threading.current_thread() is threading.main_thread())
            return super().get(key)

    monkeypatch.setitem(blocking.CLIENTS, 'seen', Seen)
    found = blocking.run(['seen'], 'get', 100, [], 1, thread=thread)
    assert len(found['seen']['turns']) == 1
    assert seen == {not thread}


@pytest.mark.parametrize('callers', [0, 2])
@pytest.mark.parametrize('operation', scenarios.libraries.OPERATIONS)
def test_libraries_of_caching(operation, callers, port):
    """Each that has the operation takes its turns, and answers right."""
    names = libraries.having(operation, callers)
    if not names:
        assert operation in ('tagged', 'ended', 'limit')
        return
    found = work_on(
        'turns',
        operation=operation,
        names=names,
        callers=callers,
        port=port,
        turns=1,
    )
    assert OURS in found
    assert set(found) == set(names)
    for figures_ in found.values():
        (turn,) = figures_['turns']
        assert turn['cpu'] > 0


def test_a_library_that_is_wrong(port, monkeypatch):
    """Its error is its result, and the others go on."""

    class Wrong(libraries.Sprockets):
        def cached(self):
            async def cached(number):
                return 'wrong'

            return cached

    monkeypatch.setitem(libraries.AWAITED, 'wrong', Wrong)
    found = turns.run('cached', ['wrong', OURS], 2, port, 2)
    assert found['wrong']['error'] == "ValueError: 0: 'wrong'"
    assert len(found[OURS]['turns']) == 2


@pytest.mark.parametrize('awaited', [False, True])
def test_who_has_a_lock(awaited, port):
    """One after the other, all of whom wanted it."""
    found = work_on(
        'holders',
        name=OURS,
        awaited=awaited,
        callers=3,
        port=port,
        seconds=0.3,
    )
    assert found['errors'] == []
    summary = scenarios.libraries.summary([found])
    assert summary['at_once'] == 1
    assert summary['holders'] > 0


def test_how_many_had_a_lock_at_once():
    """In the time that all processes have in common."""
    one = {
        'begin': 0,
        'end': 4,
        # Before the other process began; and one who never had it.
        'turns': [[0, 0, 9], [1, 1, 2], [2, 2, 3], [3]],
        'errors': ['it broke'],
    }
    other = {'begin': 1, 'end': 5, 'turns': [[1, 2.5, 2.75]], 'errors': []}
    assert scenarios.libraries.summary([one, other]) == {
        'holders': 1,
        'at_once': 2,
        'longest': 1.5,
        'errors': 1,
    }
    assert scenarios.libraries.summary([one])['at_once'] == 2


def test_values_that_are_early_or_stale(port, monkeypatch):
    """Each kind is read, and computed anew when its time is over."""
    monkeypatch.setattr(early, 'TIME', 2)
    found = early.run(port, keys=2, callers=2, pause=0.1, seconds=4)
    assert set(found) == set(early.KINDS)
    for name, figures_ in found.items():
        assert 1 <= figures_['computations'] < len(figures_['reads']), name
        assert all(wait > 0 < age for wait, age in figures_['reads'])


def test_who_waits_for_a_computation():
    """Who begins before there is what is read, however long that takes."""
    reads = [[0.5, 3], [0.1, 0.15], [early.COMPUTE, early.COMPUTE]]
    answers = [{'computations': 3, 'reads': reads[:2]}]
    answers.append({'computations': 1, 'reads': reads[2:] * 2})
    found = scenarios.early.summary(answers, 2)
    assert found == {
        'anew': 2,
        'waiting': 3 / 4,
        'p99': 0.5,
        'age': 0.15,
        'oldest': 3,
    }


# Rows, results and goals


def test_the_rows_of_each_scenario_differ():
    """One is found by its name."""
    for name, cells in ROWS.items():
        named = {rounds.row(name, cell) for cell in cells}
        assert len(named) == len(cells) > 0


@pytest.mark.parametrize('goal', goals.ALL, ids=lambda goal: goal.text)
def test_goals_are_of_rows_that_are_measured(goal):
    """And of figures that there are."""
    for cell in goal.cells:
        if cell.get('loop', 'asyncio') in loops.ALL:
            assert cell in ROWS[goal.scenario]
    assert goal.figure in figures.ALL
    assert goal.sign in goals.SIGNS


CELL = {'loop': 'asyncio', 'callers': 8}


def measured(against=None, is_baseline=False, **medians):
    """Return results in which contenders have these reads per second."""
    found = results.Results({}, against, is_baseline)
    for name, values in medians.items():
        name = {'batching': 'emcache, batching', 'before': found.before}.get(
            name, name
        )
        for number, value in enumerate(values):
            each = {'reads_per_second': value}
            found.add('callers', CELL, name, number, each)
    return found


def verdicts(found):
    return [
        (each.to, each.measured, each.verdict) for each in goals.targets(found)
    ]


def test_the_best_of_all_others_counts():
    """Batches included, and by the ratio of the medians."""
    found = measured(
        sprockets=[1, 111, 999],
        aiomcache=[2, 2, 2],
        batching=[100, 1, 1_000],
    )
    assert verdicts(found) == [('emcache, batching', 1.11, 'reached')]
    found = measured(sprockets=[109], aiomcache=[100], batching=[1])
    assert verdicts(found) == [('aiomcache', 1.09, 'not reached')]


def test_neither_this_client_nor_a_bound_is_another():
    """They are shown beside it."""
    names = [OURS, f'{OURS} at HEAD', contenders.WITHOUT_TLS, 'emcache']
    assert contenders.others([*names, *bounds.ASYNCHRONOUS]) == ['emcache']


def test_a_figure_that_failed_reaches_nothing():
    """It is no figure."""
    found = measured(aiomcache=[1])
    found.add('callers', CELL, OURS, 0, {'error': 'it broke'})
    assert verdicts(found) == [('aiomcache', None, '-')]
    assert found.errors('callers') == [(OURS, 'it broke')]


def test_goals_to_another_revision(monkeypatch):
    """It has to be the one that the goals are for."""
    goal = goals.ToBefore('callers', CELL, 'reads_per_second', '>=', 2)
    monkeypatch.setattr(goals, 'ALL', [goal])
    figures_ = {'sprockets': [190], 'before': [100]}
    assert verdicts(measured(**figures_)) == []
    to = f'{OURS} at old'
    found = measured('old', True, **figures_)
    assert verdicts(found) == [(to, 1.9, 'not reached')]
    assert verdicts(measured('old', False, **figures_)) == [(to, 1.9, '-')]
    shown = goals.changes(found, scenarios.ALL)
    assert [row[1:] for row in shown.rows] == [['1.90']]


@pytest.mark.parametrize(
    'sign, bound, value, verdict',
    [
        ('<=', 1.05, 1.0549, 'reached'),
        ('<=', 1.05, 1.0551, 'not reached'),
        ('>=', 1.1, 1.0951, 'reached'),
        ('<', 1, 1.0, 'not reached'),
        ('<', 1, 0.999, 'reached'),
        ('>', 1, 1.0, 'not reached'),
    ],
)
def test_figures_are_compared_as_they_are_shown(sign, bound, value, verdict):
    """With three digits."""
    assert goals.Target('', value, sign, bound).verdict == verdict


def test_goals_with_units_and_to_other_figures():
    """The longest of all rounds; p99 to p50; one row to another."""
    found = results.Results({})
    begin = {'callers that begin': 512}
    for number, held in enumerate([0.001, 0.025, 0.002]):
        each = {'held': held, 'busy': 0.02}
        found.add('tls', begin, OURS, number, each)
    for callers, cpu in [(512, 1e-5), (4096, 1.1e-5)]:
        cell = {'loop': 'asyncio', 'callers': callers}
        each = {'p50': 0.01, 'p99': 0.02, 'cpu_per_read': cpu}
        found.add('callers', cell, OURS, 0, each)
    rows = [target.row for target in goals.targets(found)]
    shown = [row for row in rows if row[2] != '-']
    assert [row[2:] for row in shown] == [
        ['1.10', '<= 1.05', 'not reached'],
        ['2.00', '<= 5', 'reached'],
        ['2.00', '<= 3', 'reached'],
        ['25.0 ms', '<= 20 ms', 'not reached'],
        ['20.0 ms', '<= 20 ms', 'reached'],
    ]


def test_where_another_is_ahead():
    """By the figure that counts in that row."""
    found = measured(sprockets=[90], emcache=[100], aiomcache=[80])
    assert goals.behind(found, scenarios.ALL).rows == [
        [
            'callers: loop asyncio, callers 8: reads per second',
            'emcache',
            '0.900',
        ]
    ]
    assert goals.behind(measured(sprockets=[9], emcache=[8]), []).rows == []


def test_results_are_what_was_saved(tmp_path):
    """Of several files, all figures."""
    measured('old', True, sprockets=[1, 2]).save(tmp_path / 'one')
    measured(emcache=[3]).save(tmp_path / 'two')
    found = results.Results.load([tmp_path / 'one', tmp_path / 'two'])
    assert (found.against, found.is_baseline) == ('old', True)
    assert found.contenders('callers') == ['sprockets', 'emcache']
    assert found.rounds('callers', CELL, OURS, 'reads_per_second') == [1, 2]


# Other revisions


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two revisions of a package."""
    folder = tmp_path / 'repository'
    package = folder / 'sprockets' / 'clients' / 'memcached'
    package.mkdir(parents=True)
    git = ['git', '-C', folder, '-c', 'user.name=n', '-c', 'user.email=e']
    for number in (1, 2):
        (package / '__init__.py').write_text(f'NUMBER = {number}\n')
        for command in (['init', '-q'], ['add', '.'], ['commit', '-qmx']):
            subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(revisions, 'ROOT', folder)
    return folder


def test_the_package_of_another_revision(repository):
    """It is what Python imports there, wherever this is run."""
    code = 'from sprockets.clients import memcached; print(memcached.NUMBER)'
    with revisions.places('HEAD~1') as places:
        assert list(places) == ['HEAD~1', revisions.THIS]
        said = [
            revisions.run(place, '-c', code)[0] for place in places.values()
        ]
    assert said == ['1\n', '2\n']


def test_the_revision_of_the_goals_is_known(repository, monkeypatch):
    """By whatever name."""
    full = revisions._git('rev-parse', 'HEAD')[:7]
    with revisions.checked_out('HEAD') as revision:
        assert not revision.is_baseline
    monkeypatch.setattr(revisions, 'BASELINE', full)
    with revisions.checked_out('HEAD') as revision:
        assert revision.is_baseline


def test_a_revision_that_there_is_not(repository, capsys):
    """The error names it."""
    with pytest.raises(SystemExit):
        revisions.parser('name', '').parse_args(['--against', 'nothing'])
    assert 'nothing: git knows no such revision' in capsys.readouterr().err


def test_another_revision_takes_part_where_this_one_does():
    """With the same task, at its own place."""
    found = results.Results({}, 'old')
    revision = revisions.Revision('old', pathlib.Path('there'), False)
    bench = rounds.Rounds(rounds.QUICK, found, revision)
    task = {'callers': 8}
    assert bench.with_revision({'emcache': task}) == {'emcache': task}
    assert bench.with_revision({OURS: task}) == {
        OURS: task,
        f'{OURS} at old': {
            'callers': 8,
            'name': OURS,
            'place': revision.place,
        },
    }


def test_contenders_take_turns():
    """Nobody always follows the same other one."""
    found = results.Results({})
    bench = rounds.Rounds(rounds.QUICK, found)
    turns = []

    def measure(number, name):
        turns.append((number, name))
        return {'bytes': number}

    tasks = {name: {'name': name} for name in 'abc'}
    bench.each_in_turn('memory', CELL, tasks, measure)
    assert turns[:5] == [(0, 'a'), (0, 'b'), (0, 'c'), (1, 'b'), (1, 'c')]
    assert found.rounds('memory', CELL, 'a', 'bytes') == [0, 1]


# The command


def command(*arguments):
    """Run the benchmarks' command."""
    return subprocess.run(
        [sys.executable, '-W', 'error', '-m', 'benchmarks.main', *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.long
def test_a_row_is_measured_alone(tmp_path):
    """It has its table, its goal, and who could not take part."""
    file = tmp_path / 'figures.json'
    done = command(
        *('--quick', '--only', 'asyncio, callers 8$', '--json', str(file))
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == '  callers: loop asyncio, callers 8\n'
    assert re.search(r'^sprockets +[\d,]+$', done.stdout, re.MULTILINE)
    assert re.search(
        r'^callers: loop asyncio, callers 8: reads per second .* >= 1.1 ',
        done.stdout,
        re.MULTILINE,
    )
    for name in main.COMPARED:
        reason = packages.missing(name)
        if reason is not None:
            assert re.search(
                rf'^{re.escape(name)} +{reason}$', done.stdout, re.MULTILINE
            )
    found = results.Results.load([file])
    assert set(found.contenders('callers')) == set(contenders.ASYNCHRONOUS)
    assert found.errors('callers') == []


def test_rows_are_listed():
    """Those that a pattern is found in."""
    done = command('--rows', '--only', 'tls|mix')
    assert done.stdout.splitlines() == [
        *(f'tls: callers {callers}' for callers in (1, 64, 512)),
        'tls: callers that begin 512',
        'mix: callers 64',
    ]


@pytest.mark.parametrize(
    'pattern, reason',
    [('none', 'it is found in no row'), ('(', 'no regular expression')],
)
def test_a_pattern_that_cannot_be(pattern, reason):
    """It is shown, with what is wrong."""
    done = command('--only', pattern)
    assert done.returncode == 2
    assert f'--only {pattern}: {reason}' in done.stderr


# What cannot be installed


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment whose pip cannot install one of three packages."""
    programs = tmp_path / 'bin'
    programs.mkdir()
    python = programs / 'python'
    python.write_text(
        '#!/bin/sh\n'
        'echo "$*" >> "$0.log"\n'
        'case "$*" in\n'
        '*--requirement*|*libmc*)\n'
        '    echo "some more"; echo "ERROR: no wheel for it"; exit 1;;\n'
        'esac\n'
    )
    python.chmod(0o755)
    requirements = tmp_path / 'contenders.txt'
    requirements.write_text('# Why.\nemcache>=1\nlibmc>=1.4,<2\nuvloop\n')
    monkeypatch.setattr(start, 'CONTENDERS', requirements)
    return programs


def test_who_cannot_be_installed_is_left_out_with_the_reason(
    environment, monkeypatch
):
    """The others are there all the same; and nothing is tried twice."""
    start._provide_contenders(environment)
    log = pathlib.Path(f'{environment}/python.log')
    tried = [line.split()[-1] for line in log.read_text().splitlines()]
    assert tried == [
        str(start.CONTENDERS),
        'emcache>=1',
        'libmc>=1.4,<2',
        'uvloop',
    ]
    start._provide_contenders(environment)
    assert len(log.read_text().splitlines()) == len(tried)
    monkeypatch.setattr(sys, 'prefix', str(environment.parent))
    packages._report.cache_clear()
    try:
        assert packages.missing('libmc') == 'ERROR: no wheel for it'
    finally:
        packages._report.cache_clear()


def test_a_python_that_there_is_not():
    """The error says which there are."""
    with pytest.raises(commands.Error, match=r'^--python 2\.0: .* 3\.'):
        start._python('2.0')


# What is written about it


def test_every_contender_has_its_requirement():
    """And every requirement is somebody's."""
    text = start.CONTENDERS.read_text('utf-8')
    names = re.findall(r'^[a-z][\w.-]*', text, re.MULTILINE)
    ours = {'python-memcached'}
    assert set(names) == set(main.COMPARED) - ours
    assert sorted(names) == names


@pytest.mark.parametrize('page', ['benchmarks/README.rst', 'docs/speed.rst'])
def test_every_contender_is_described(page):
    """By its name; those on executors by that of their package."""
    text = (ROOT / page).read_text('utf-8')
    for contender in contenders.ALL:
        name = contender.name.removesuffix(', executor')
        assert re.search(rf'(?<![\w-]){re.escape(name)}(?![\w-])', text)
    for name in (*bounds.ASYNCHRONOUS, *bounds.BLOCKING):
        assert name in text


def test_every_scenario_is_described():
    """In the list of what is measured, or under a heading of its own."""
    listed = re.findall(r'^(\w+(?:; \w+)*)\n    ', README, re.MULTILINE)
    names = {name for line in listed for name in line.split('; ')}
    assert {each.NAME for each in scenarios.IN_SECONDS} <= names
    assert '\nInstructions of a read\n---' in README


@pytest.mark.parametrize('collector', sorted(loads.COLLECTORS))
def test_a_collector_is_what_it_is_called(collector):
    """In a process of its own, which does nothing else."""
    code = (
        'import gc, json\n'
        'from benchmarks import loads\n'
        # Python 3.12 has frozen some things of its own.
        'before = gc.get_freeze_count()\n'
        f'loads.COLLECTORS[{collector!r}]()\n'
        'print(json.dumps([gc.isenabled(), gc.get_freeze_count() > before,'
        ' gc.get_threshold() == loads.RARELY]))'
    )
    printed, _ = revisions.run(ROOT, '-c', code)
    assert (
        json.loads(printed)
        == {
            'as it is': [True, False, False],
            'frozen': [True, True, False],
            'frozen, rare': [True, True, True],
            'off': [False, False, False],
        }[collector]
    )


def test_collections_are_timed():
    """Those in the block, and no others."""
    with loads.Collections() as collections:
        gc.collect()
        gc.collect()
    assert 0 < collections.longest <= collections.seconds
    before = collections.seconds
    gc.collect()
    assert collections.seconds == before


def test_the_options_and_files_of_the_readme_are_there():
    """Whoever reads it can do what it says."""
    done = command('--help')
    for option in set(re.findall(r'^``(--\w+)', README, re.MULTILINE)):
        assert option in done.stdout
    named = re.findall(r'``((?:benchmarks/)?[\w/]+(?:\.py|\.txt)?)``', README)
    files = {name for name in named if '/' in name or '.' in name}
    assert {'goals.py', 'benchmarks/run'} <= files
    for name in files:
        assert (ROOT / 'benchmarks' / name).exists() or (ROOT / name).exists()


def test_the_page_has_a_block_for_each_table():
    """And each block is one that can be filled."""
    blocks = document.BLOCK.findall(document.PAGE.read_text('utf-8'))
    names = [name for _, name, *_ in blocks]
    assert sorted(names) == sorted(document.SECTIONS)


def test_the_page_is_filled_with_what_was_measured():
    """What was not stays as it is."""
    found = measured(sprockets=[12_300])
    text = (
        'Before.\n\n'
        '.. figures: reads\n\nold\n\n.. end of figures\n\n'
        '.. figures: mix\n\nold\n\n.. end of figures\n'
    )
    assert document.fill(text, found) == (
        'Before.\n\n'
        '.. figures: reads\n\n'
        '============================  ======\n'
        'Reads per second, by callers       8\n'
        '============================  ======\n'
        'sprockets                     12,300\n'
        '============================  ======\n'
        '\n.. end of figures\n\n'
        '.. figures: mix\n\nold\n\n.. end of figures\n'
    )


def test_a_table_is_restructured_text():
    """A figure that there is not begins no list."""
    rows = [['emcache', '-'], ['aiomcache', '2']]
    table = tables.Table('Time', ['bytes', 1], rows)
    assert table.rst() == (
        '==============  ==\n'
        'Time, by bytes   1\n'
        '==============  ==\n'
        'emcache         \\-\n'
        'aiomcache        2\n'
        '==============  ==\n'
    )
    assert str(table) == (
        'Time\n\nbytes      1\n---------  -\nemcache    -\naiomcache  2\n'
    )


@pytest.mark.parametrize('scenario', scenarios.ALL, ids=lambda each: each.NAME)
def test_nothing_measured_is_nothing_shown(scenario):
    """No table of a scenario needs a figure to be there."""
    found = results.Results({})
    assert all(not table.rows for table in scenario.report(found))
    assert set(scenario.FIGURES) <= set(figures.ALL)
