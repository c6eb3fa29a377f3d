"""What is pointed out about variables that nobody reads."""

import logging
import os

import pytest

from sprockets.clients import memcached

LOGGER = 'sprockets.clients.memcached.oversights'


@pytest.fixture
def said(monkeypatch, caplog):
    """Set variables, make clients, and return what was logged of them."""
    for name in list(os.environ):
        if 'MEMCACHED_' in name:
            monkeypatch.delenv(name)
    caplog.set_level(logging.INFO, LOGGER)

    def said(*prefixes, kind=memcached.Client, options=(), **variables):
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        caplog.clear()
        for prefix in prefixes:
            kind(prefix, **dict(options))
        return [
            (record.levelname, record.getMessage().partition(': ')[2])
            for record in caplog.records
            if record.name == LOGGER
        ]

    return said


@pytest.mark.parametrize('kind', [memcached.Client, memcached.AsyncClient])
def test_a_misspelt_option(said, kind):
    """It is a warning, once in the process."""
    variables = {
        'PAGES_MEMCACHED_SERVERS': 'a',
        'PAGES_MEMCACHED_SOCKET_TIMOUT': '1',
        'MEMCACHED_FAIL_OVER': 'off',
    }
    assert said('pages', 'pages', None, kind=kind, **variables) == [
        (
            'WARNING',
            'Nobody reads MEMCACHED_FAIL_OVER: is MEMCACHED_FAILOVER meant?',
        ),
        (
            'WARNING',
            (
                'Nobody reads PAGES_MEMCACHED_SOCKET_TIMOUT: is'
                ' PAGES_MEMCACHED_SOCKET_TIMEOUT meant?'
            ),
        ),
    ]


def test_what_is_like_no_option(said):
    """It is another's where it has no prefix, and nobody's where it has."""
    assert said(
        'pages',
        PAGES_MEMCACHED_SERVERS='a',
        PAGES_MEMCACHED_COLOUR='red',
        PAGES_MEMCACHED_PORT_11211_TCP_ADDR='10.0.0.1',
        PAGES_MEMCACHED_SERVICE_HOST='10.0.0.1',
        MEMCACHED_VERSION='1.6',
        MEMCACHED_PORT='tcp://10.0.0.1:11211',
        OTHER_MEMCACHED_SERVER='b',
    ) == [
        (
            'WARNING',
            'Nobody reads PAGES_MEMCACHED_COLOUR: there is no such option',
        )
    ]


def test_a_prefix_without_variables(said):
    """It is a warning where no servers are set at all."""
    assert said(
        'cloud_detector', CD_MEMCACHED_SERVERS='127.0.0.1:11211<:1000M>'
    ) == [
        (
            'WARNING',
            (
                'No variable begins with CLOUD_DETECTOR_MEMCACHED_, and the'
                ' servers are the default; set are CD_MEMCACHED_SERVERS'
            ),
        )
    ]


def test_a_prefix_that_is_misspelt(said):
    assert said(
        'pages', PAGE_MEMCACHED_SERVERS='a', MEMCACHED_SERVERS='b'
    ) == [
        (
            'WARNING',
            (
                'No variable begins with PAGES_MEMCACHED_, and the servers are'
                ' those of MEMCACHED_SERVERS; set are PAGE_MEMCACHED_SERVERS'
            ),
        )
    ]


def test_one_variable_for_all_prefixes(said):
    """It is nothing to warn of."""
    ((level, text),) = said('pages', MEMCACHED_SERVERS='a')
    assert level == 'INFO'
    assert text.endswith('those of MEMCACHED_SERVERS')


def test_nothing_to_say(said):
    """Also where the code says where the servers are."""
    assert said(None) == []
    assert said('pages', options={'servers': 'a'}) == []
    assert said('pages', PAGES_MEMCACHED_DEAD_RETRY='1') == []
    assert said('visits', VISITS_MEMCACHED_SERVERS='a') == []


@pytest.mark.parametrize('prefix', ['my-app', 'my app', 'My.App'])
def test_a_prefix_that_no_shell_exports(said, prefix):
    """Its variables may have _ instead, and that is told."""
    variables = {'MY_APP_MEMCACHED_SERVERS': 'a'}
    ((level, text),) = said(prefix, **variables)
    assert level == 'INFO'
    assert text == (
        f'The prefix {prefix.upper()!r} has characters that no shell exports,'
        ' so that MY_APP_MEMCACHED_<OPTION> is read too'
    )
    assert memcached._get_servers(prefix) == ['a']
    own = f'{prefix.upper()}_MEMCACHED_SERVERS'
    assert said(prefix, **{own: 'b'}) == []
    assert memcached._get_servers(prefix) == ['b']


def test_no_value_is_shown(said):
    for _, text in said(
        'pages', MEMCACHED_PASSWORT='hush', PAGES_MEMCACHED_PASSWD='hush'
    ):
        assert 'hush' not in text
