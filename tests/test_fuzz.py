"""A few replies of nonsense for all that reads them; see fuzzing.py."""

import asyncio

import fuzzing
import hypothesis
import pytest
from hypothesis import strategies

FEW = hypothesis.settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)

rounds = strategies.integers(1, 3)


@pytest.fixture(scope='module')
def server():
    with fuzzing.Server() as server:
        yield server


@pytest.fixture(autouse=True)
def listening():
    with fuzzing.listening():
        yield


@hypothesis.settings(FEW, max_examples=300)
@hypothesis.given(fuzzing.replies(), strategies.integers(0, 1 << 18))
def test_every_command_reads_it(reply, at):
    """It is an answer within all bounds, or none, however it is cut."""
    fuzzing.read_with_every_command(reply, at)


@FEW
@hypothesis.given(fuzzing.replies(), rounds)
def test_no_method_raises(server, reply, rounds):
    """Whatever the server says."""
    fuzzing.call_every_method(server, reply, rounds)


@FEW
@hypothesis.given(fuzzing.replies(), rounds)
def test_no_awaited_method_raises_and_the_status_is_one(server, reply, rounds):
    """The others neither, and it is JSON that is harmless in a page."""
    asyncio.run(fuzzing.await_every_method(server, reply, rounds))


@FEW
@hypothesis.given(fuzzing.replies(), rounds)
def test_the_command_line_shows_it(server, reply, rounds):
    """In lines that do nothing to a terminal."""
    fuzzing.show_on_the_command_line(server, reply, rounds)


@FEW
@hypothesis.given(fuzzing.replies(), rounds)
def test_discovery_takes_it_or_not(server, reply, rounds):
    """A thousand servers at most."""
    fuzzing.discover(server, reply, rounds)


@hypothesis.given(
    strategies.one_of(
        fuzzing.configurations(), strategies.binary(max_size=200)
    )
)
def test_a_configuration_is_one_or_none(data):
    """What is none is said to be so in a few words."""
    try:
        servers = fuzzing.discovery.parse(data)
    except ValueError as error:
        fuzzing.look_at_words(error)
    else:
        assert 0 < len(servers) <= 1000
