"""README.rst says what is so, and its snippets run."""

import io
import os
import pathlib
import re

import pytest
import snippets
from readme_renderer import rst

from sprockets.clients import memcached
from sprockets.clients.memcached import settings

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / 'README.rst'


@pytest.fixture
def session(memcached_server):
    """All of its Python, run in order."""
    with snippets.Session() as session:
        for snippet in snippets.find(README):
            if snippet.language == 'python':
                session.run(snippet)
        yield session


def test_the_snippets_are_found():
    """A test of nothing would pass."""
    languages = [snippet.language for snippet in snippets.find(README)]
    assert languages.count('python') == 4
    assert languages.count('sh') == 2


def test_the_page_is_cached(session, memcached_server):
    """The handler at the top does what one expects of it."""
    Page = session.names['Page']  # noqa: N806
    application = session.names['Application']([(r'/(\w{1,100})', Page)])

    async def ask():
        first = await snippets.fetch(application, '/cover')
        memcached.Client().set('cover', 'from memcached')
        second = await snippets.fetch(application, '/cover')
        await application.stop_memcached()
        return first.body, second.body

    assert session.loop.run_until_complete(ask()) == (
        b'<h1>cover</h1>',
        b'from memcached',
    )


def test_the_mixin_is_shown_in_about_ten_lines():
    """More would not be read."""
    first = next(s for s in snippets.find(README) if s.language == 'python')
    assert len(first.text.split('class Page')[1].strip().splitlines()) <= 10


def test_the_awaitable_client_answers(session, memcached_server):
    """It reads what the blocking one has stored."""
    client = memcached.Client()
    client.set('visits', 41)
    report = session.names['report']
    assert session.loop.run_until_complete(report()) == ('Hello', 42)


def test_the_commands_are_there():
    """They are programs of this checkout."""
    shown = next(s for s in snippets.find(README) if s.language == 'sh')
    commands = [line.split()[0] for line in shown.text.split('\n') if line]
    assert commands == ['scripts/demo', 'scripts/test']
    for command in commands:
        assert os.access(ROOT / command, os.X_OK)


def test_the_package_to_install_is_this_one():
    """By its name on the package index."""
    *_, shown = (s for s in snippets.find(README) if s.language == 'sh')
    # Without it, a Python that is too old gets 1.1.0.
    wanted = f"pip install '{memcached.__name__}>=2'"
    assert shown.text.strip() == wanted


def rows():
    """Return the meaning and the default of each option in the table."""
    table = re.findall(
        r'^``([A-Z_]+)`` +(.+?)  +(\S+)$',
        README.read_text('utf-8'),
        re.MULTILINE,
    )
    return {
        name.lower(): (meaning, default) for name, meaning, default in table
    }


def test_the_table_has_every_option():
    """In the order of the settings."""
    assert list(rows()) == list(settings.OPTIONS)


@pytest.mark.parametrize('name', settings.OPTIONS)
def test_the_defaults_are_those_of_the_settings(name, monkeypatch):
    """What one gets without any variable."""
    monkeypatch.delenv('MEMCACHED_SERVERS', raising=False)
    value = getattr(settings.Settings(None, {}), name)
    default = rows()[name][1]
    if not value and default == 'none':
        return
    parsed = settings.OPTIONS[name].parse(default)
    assert parsed == value


@pytest.fixture(scope='module')
def rendered():
    """It as the package index shows it."""
    page = rst.render(README.read_text('utf-8'), stream=io.StringIO())
    assert page is not None
    return page


def test_links_work_wherever_it_is_shown(rendered):
    """They are whole addresses, and so are those of images."""
    links = re.findall(r'(?:href|src)="([^"]*)"', rendered)
    assert len(links) > 10
    for link in links:
        assert link.startswith(('https://', '#'))


def test_links_lead_to_pages_that_there_are(rendered):
    """Of the documentation, and to files of the project."""
    start = 'https://sprocketsclientsmemcached.readthedocs.io/en/latest/'
    pages = re.findall(rf'"{start}([^"#]*)\.html"', rendered)
    assert len(pages) >= 8
    for page in pages:
        assert (ROOT / 'docs' / f'{page}.rst').is_file()
    (image,) = re.findall(r'<img[^>]*src="([^"]*)"', rendered)
    assert (ROOT / image.partition('/main/')[2]).is_file()


def test_the_first_screen_says_what_there_is():
    """Without scrolling: what a service gets."""
    text = README.read_text('utf-8').partition('Try it')[0]
    assert len(text.splitlines()) < 60
    for word in (
        *('get_or_set', 'cached', 'status page', 'Prometheus', 'command line'),
        *('pytest fixture', 'Kubernetes', 'OpenTelemetry', '>=2'),
    ):
        assert word in text


@pytest.mark.parametrize(
    'path',
    sorted(
        set(
            re.findall(
                r'``((?:docs|examples)/[\w.]+)``', README.read_text('utf-8')
            )
        )
    ),
)
def test_the_files_named_are_there(path):
    """For whoever wants to read on."""
    assert (ROOT / path).is_file()
