"""The snippets of the documentation run, and it says what is so."""

import ast
import logging
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
import textwrap
from unittest import mock

import pytest
import snippets
from services import wait_until

from sprockets.clients import memcached
from sprockets.clients.memcached import settings
from sprockets.clients.memcached.loop import batches

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
PACKAGE = ROOT / 'sprockets' / 'clients' / 'memcached'

# The tutorial is one program, with a test of its own.
PAGES = {
    path.relative_to(DOCS).as_posix(): path
    for path in sorted(DOCS.rglob('*.rst'))
    if path.name != 'tutorial.rst'
}


@pytest.mark.parametrize('page', PAGES)
def test_the_snippets_run(page, memcached_server, tmp_path, monkeypatch):
    """In their order, as one program.

    Those with a caption are files by that name, in which tests are run.
    """
    monkeypatch.chdir(tmp_path)
    found = snippets.find(PAGES[page])
    names = {'fetch': snippets.fetch, 'server': memcached_server}
    with (
        mock.patch.dict(os.environ),
        snippets.Session(**names) as session,
    ):
        for snippet in found:
            if snippet.caption:
                (tmp_path / snippet.caption).write_text(snippet.text)
            elif snippet.language == 'python':
                session.run(snippet)
            elif snippet.language == 'sh':
                run_exports(snippet)
    if any(tmp_path.glob('test_*.py')):
        run_tests(tmp_path)


def run_exports(snippet):
    """Run the shell's snippet, and see that the settings understand it."""
    prefixes = re.findall(
        r'^export (?:(\w+)_)?MEMCACHED_', snippet.text, re.MULTILINE
    )
    lines = [line for line in snippet.text.splitlines() if line]
    assert len(prefixes) == len(lines), snippet
    shown = subprocess.run(
        ['sh', '-ec', f'{snippet.text}\nenv'],
        env={'PATH': os.defpath},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    with pytest.MonkeyPatch.context() as patch:
        for line in shown.stdout.splitlines():
            name, _, value = line.partition('=')
            if 'MEMCACHED_' in name:
                patch.setenv(name, value)
        for prefix in prefixes:
            sources = settings.Settings(prefix or None, {}).sources.values()
            assert set(sources) != {'default'}


def run_tests(folder, *arguments, **environ):
    """Run the tests in a folder, with pytest and, if it is one, unittest.

    :param arguments: more arguments of pytest
    :param environ: more variables

    """
    pytest_ = (sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider')
    finished = subprocess.run(
        [*pytest_, *arguments],
        cwd=folder,
        env={**os.environ, 'PYTHONWARNINGS': 'error', **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_log_looks_as_it_is_shown(memcached_server, caplog):
    """So that one knows what to look for."""
    caplog.set_level('INFO', 'sprockets.clients.memcached.servers')
    client = memcached.Client(dead_retry=0.01)
    memcached_server.kill()
    client.get('key')
    memcached_server.start()
    wait_until(lambda: client.set('key', 'value'))
    (shown,) = [
        snippet.text.split('\n')
        for snippet in snippets.find(PAGES['howto/outages.rst'])
        if snippet.language == 'text'
    ]
    lines = [line.partition(': [')[0] for line in shown if line]
    address = memcached_server.address
    assert [
        re.sub(r'[0-9.]+ seconds', '31.2 seconds', message).partition(': [')[0]
        for message in caplog.messages
    ] == [line.replace('10.0.0.1:11211', address) for line in lines]


def test_every_option_is_documented():
    """With its default, in the order of the settings."""
    page = PAGES['configuration.rst'].read_text('utf-8')
    rows = re.findall(r'^``([A-Z_]+)`` +(\S+)  ', page, re.MULTILINE)
    assert [name.lower() for name, _ in rows] == list(settings.OPTIONS)
    for name, default in rows:
        option = settings.OPTIONS[name.lower()]
        if default != 'none' or option.default:
            assert option.parse(default) == option.default, name


def test_the_design_names_every_module():
    """A newcomer finds what each of them is for."""
    page = PAGES['design.rst'].read_text('utf-8')
    for path in PACKAGE.rglob('*.py'):
        if not path.stem.startswith('__'):
            assert f'``{path.stem}``' in page, path.stem


def test_the_design_has_every_step_of_a_batch():
    """From one state to another, as the code has them."""
    page = PAGES['design.rst'].read_text('utf-8')
    rows = re.findall(
        r'^   \* - ([a-z ]+)\n     - ([a-z ]+)\n     - \S',
        page.partition('\nThe states of a batch\n')[2],
        re.MULTILINE,
    )
    assert sorted(rows) == sorted(
        (state, following)
        for state, others in batches.TRANSITIONS.items()
        for following in others
    )


def test_every_page_is_in_a_table_of_contents():
    """Sphinx warns of the others; this says so without a build."""
    listed = set()
    for page, path in PAGES.items():
        for block in re.findall(
            r'\.\. toctree::\n((?:   .*\n|\n)+)', path.read_text('utf-8')
        ):
            folder = pathlib.PurePosixPath(page).parent
            listed |= {
                (folder / f'{name}.rst').as_posix()
                for name in re.findall(r'^   ([\w/]+)$', block, re.MULTILINE)
            }
    assert listed == {*PAGES, 'tutorial.rst'} - {'index.rst'}


def test_the_examples_named_are_there():
    """For whoever wants to see it in whole."""
    named = set()
    for path in PAGES.values():
        named |= set(re.findall(r'``(examples/\w+\.py)``', path.read_text()))
    assert named
    for name in named:
        assert (ROOT / name).is_file()


# CONTRIBUTING.rst


def put_after(file, name, text):
    """Put a snippet behind what a Python file defines by a name."""
    source = file.read_text('utf-8')
    (node,) = [
        node
        for node in ast.walk(ast.parse(source))
        if getattr(node, 'name', None) == name
        or any(
            isinstance(target, ast.Name) and target.id == name
            for target in getattr(node, 'targets', ())
        )
    ]
    lines = source.split('\n')
    indented = textwrap.indent(text.rstrip(), ' ' * node.col_offset)
    lines.insert(node.end_lineno, f'\n{indented}\n')
    file.write_text('\n'.join(lines), 'utf-8')


def test_the_example_of_a_new_command_works(tmp_path):
    """In a copy of the package, with the tests that the page shows."""
    for name in ('sprockets', 'tests'):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns('__pycache__', 'test_*.py'),
        )
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    methods = 'tests/test_methods.py'
    shutil.copy(ROOT / methods, tmp_path / methods)
    page = ROOT / 'CONTRIBUTING.rst'
    lines = page.read_text('utf-8').splitlines()
    tests = []
    for snippet in snippets.find(page):
        if snippet.language != 'python':
            continue
        # Before the directive and a blank line.
        where = lines[snippet.line - 4]
        path, name = re.fullmatch(
            r'``([\w/.]+)``(?:, after ``(\w+)``)?:', where
        ).groups()
        if name:
            put_after(tmp_path / path, name, snippet.text)
        else:
            (tmp_path / path).write_text(snippet.text, 'utf-8')
            tests.append(path)
    (test,) = tests
    run_tests(
        tmp_path,
        *(test, f'{methods}::test_both_faces_have_the_same_methods'),
        PYTHONPATH=str(tmp_path),
    )


def test_what_the_docs_include_is_in_the_sdist():
    """The docs can be built from it."""
    manifest = (ROOT / 'MANIFEST.in').read_text('utf-8')
    included = re.search(r'^include (.+)$', manifest, re.MULTILINE)[1].split()
    named = set()
    for path in PAGES.values():
        named |= set(
            re.findall(
                r'^\.\. include:: \.\./(.+)$', path.read_text(), re.MULTILINE
            )
        )
    assert named
    assert named <= set(included)


def test_the_files_that_contributors_need_are_there():
    """Whatever the page names, in its text and in its commands.

    The file of the example's tests is the one that is not.

    """
    page = (ROOT / 'CONTRIBUTING.rst').read_text('utf-8')
    page = re.sub(r'^``\S+``:$', '', page, flags=re.MULTILINE)
    folders = 'benchmarks|docs|requirements|scripts|sprockets|tests'
    named = set(re.findall(rf'(?:``|\$ )((?:{folders})/[\w./]+)', page))
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize(
    'module, name',
    [
        (module, name)
        for module, names in re.findall(
            r'^``(test_\w+)``:((?: +``\w+``,?)+)',
            (ROOT / 'CONTRIBUTING.rst').read_text('utf-8'),
            re.MULTILINE,
        )
        for name in re.findall(r'\w+', names)
    ],
)
def test_the_tables_that_contributors_fill_in_are_there(module, name):
    """A new command is entered in each of them."""
    source = (ROOT / 'tests' / f'{module}.py').read_text('utf-8')
    assert re.search(rf'^{name} = ', source, re.MULTILINE)


# The loggers


def logged():
    """Return the logger, the level, and the text of each call that logs."""
    found = set()
    for path in PACKAGE.rglob('*.py'):
        source = path.read_text('utf-8')
        if 'getLogger(__name__)' not in source:
            continue
        parts = path.relative_to(PACKAGE).with_suffix('').parts
        name = '.'.join((memcached.__name__, *parts))
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        value=(
                            ast.Name('LOGGER' | 'NOTICES')
                            | ast.Attribute(attr='_notices' | 'notices')
                        ),
                        attr=level,
                    ),
                    args=[ast.Constant(text), *_],
                ):
                    level = {'exception': 'error'}.get(level, level)
                    levels = {level.upper()}
                case _:
                    continue
            found |= {(name, level, text) for level in levels}
    return found


def documented():
    """Return the logger, the level, and a message of each row of the page."""
    page = PAGES['howto/logging.rst'].read_text('utf-8')
    return re.findall(
        r'^   \* - ``([\w.]+)``\n'
        r'     - ([A-Z]+)\n'
        r'     - ``(.+)``\n',
        page,
        re.MULTILINE,
    )


def is_message_of(text, message):
    """Whether a message may be that of a text with ``%s`` and its like."""
    pattern = re.sub(r'%(?:\\?\.\d)?[srdf]', '.*', re.escape(text))
    return re.fullmatch(pattern, message) is not None


def test_every_message_is_documented():
    """With its logger and its level, and nothing else is."""
    calls, rows = logged(), documented()
    assert len(calls) > 15
    prefix = memcached.__name__
    for name, level, text in calls:
        assert any(
            f'{prefix}.{row_name}' == name
            and row_level == level
            and is_message_of(text, message)
            for row_name, row_level, message in rows
        ), (name, level, text)
    for row_name, row_level, message in rows:
        assert any(
            f'{prefix}.{row_name}' == name
            and row_level == level
            and is_message_of(text, message)
            for name, level, text in calls
        ), (row_name, row_level, message)
        assert isinstance(logging.getLevelName(row_level), int)


@pytest.mark.parametrize('page', PAGES)
def test_the_names_of_the_package_are_there(page):
    """Also those of loggers, which are modules."""
    names = re.findall(
        rf'\b{re.escape(memcached.__name__)}(?:\.\w+)+',
        PAGES[page].read_text('utf-8'),
    )
    for name in names:
        pkgutil.resolve_name(name)
