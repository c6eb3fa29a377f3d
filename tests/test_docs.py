"""The snippets of the documentation run, and it says what is so."""

import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import pytest
import snippets
from services import wait_until

from sprockets.clients import memcached
from sprockets.clients.memcached import settings

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


def run_tests(folder):
    """Run the tests in a folder, with pytest and, if it is one, unittest."""
    finished = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'],
        cwd=folder,
        env={**os.environ, 'PYTHONWARNINGS': 'error'},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_log_looks_as_it_is_shown(memcached_server, caplog):
    """So that one knows what to look for."""
    caplog.set_level('INFO', 'sprockets.clients.memcached.servers.health')
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
