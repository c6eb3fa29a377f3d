"""One computation at a time for a key, of all the threads of a process."""

import os
import threading
import time

import faults
import pytest

from sprockets.clients.memcached.once import computations

PATIENCE = 30


class Threads:
    """Threads whose results are kept."""

    def __init__(self):
        self._threads = []
        self.results = []

    def start(self, function):
        def run():
            try:
                self.results.append(function())
            except BaseException as error:  # noqa: BLE001
                self.results.append(error)

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()

    def join(self):
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        return self.results


class Slow:
    """A computation that ends when it is told to."""

    def __init__(self, outcome):
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.calls = 0
        self._outcome = outcome

    def __call__(self):
        self.calls += 1
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


@pytest.fixture
def waits(monkeypatch):
    """A semaphore that is released whenever somebody begins to wait."""
    begun = threading.Semaphore(0)

    wait = computations.Computation.wait

    def tell(computation, seconds):
        begun.release()
        return wait(computation, seconds)

    monkeypatch.setattr(computations.Computation, 'wait', tell)
    return begun


def test_one_computes_and_the_others_wait(waits):
    """They get the same outcome."""
    all_of_them = computations.Computations()
    slow = Slow('outcome')
    threads = Threads()
    threads.start(lambda: all_of_them.run('key', slow, PATIENCE))
    assert slow.begun.wait(PATIENCE)
    for _ in range(5):
        threads.start(lambda: all_of_them.run('key', slow, PATIENCE))
    for _ in range(5):
        assert waits.acquire(timeout=PATIENCE)
    slow.go_on.set()
    assert threads.join() == ['outcome'] * 6
    assert slow.calls == 1


def test_other_keys_do_not_wait():
    """Nor later callers, once it is over."""
    all_of_them = computations.Computations()
    slow = Slow('outcome')
    threads = Threads()
    threads.start(lambda: all_of_them.run('key', slow, PATIENCE))
    assert slow.begun.wait(PATIENCE)
    assert all_of_them.run('another', lambda: 'other', PATIENCE) == 'other'
    slow.go_on.set()
    threads.join()
    assert all_of_them.run('key', lambda: 'later', PATIENCE) == 'later'


def test_who_does_not_wait_gets_none():
    """It is no outcome, and so tells that another one computes."""
    all_of_them = computations.Computations()
    slow = Slow('outcome')
    threads = Threads()
    threads.start(lambda: all_of_them.run('key', slow, PATIENCE))
    assert slow.begun.wait(PATIENCE)
    assert all_of_them.run('key', slow, None) is None
    slow.go_on.set()
    assert threads.join() == ['outcome']


def test_an_error_is_for_all_who_wait(waits):
    """The next caller computes."""
    all_of_them = computations.Computations()
    error = ValueError('no')
    slow = Slow(error)
    threads = Threads()
    threads.start(lambda: all_of_them.run('key', slow, PATIENCE))
    assert slow.begun.wait(PATIENCE)
    threads.start(lambda: all_of_them.run('key', slow, PATIENCE))
    assert waits.acquire(timeout=PATIENCE)
    slow.go_on.set()
    results = threads.join()
    assert error in results
    assert [str(result) for result in results] == ['no', 'no']
    assert all_of_them.run('key', lambda: 'later', PATIENCE) == 'later'


@pytest.mark.parametrize('outcome', [KeyboardInterrupt(), SystemExit(), None])
def test_who_gives_up_is_followed_by_one_who_waits(waits, outcome):
    """Ctrl-C is for one thread, and None is no outcome for others."""
    all_of_them = computations.Computations()
    slow = Slow(outcome)
    threads = Threads()
    threads.start(lambda: all_of_them.run('key', slow, PATIENCE))
    assert slow.begun.wait(PATIENCE)
    for _ in range(3):
        threads.start(
            lambda: all_of_them.run('key', lambda: 'theirs', PATIENCE)
        )
    for _ in range(3):
        assert waits.acquire(timeout=PATIENCE)
    slow.go_on.set()
    results = threads.join()
    assert results.count('theirs') == 3


def test_patience_ends():
    """Then another computation begins, whatever becomes of the first."""
    all_of_them = computations.Computations()
    slow = Slow('late')
    threads = Threads()
    threads.start(lambda: all_of_them.run('key', slow, PATIENCE))
    assert slow.begun.wait(PATIENCE)
    assert all_of_them.run('key', lambda: 'other', 0.01) == 'other'
    slow.go_on.set()
    assert threads.join() == ['late']


@pytest.mark.parametrize('patience', [10.0**10, 10.0**300])
def test_patience_may_be_longer_than_threads_can_wait(waits, patience):
    all_of_them = computations.Computations()
    slow = Slow('value')
    threads = Threads()
    threads.start(lambda: all_of_them.run('key', slow, patience))
    assert slow.begun.wait(PATIENCE)
    threads.start(lambda: all_of_them.run('key', lambda: 'other', patience))
    assert waits.acquire(timeout=PATIENCE)
    slow.go_on.set()
    assert threads.join() == ['value', 'value']


def test_what_was_forgotten_is_not_waited_for():
    """It ends without a trace, and leaves the next one alone."""
    all_of_them = computations.Computations()
    first, second = Slow('first'), Slow('second')
    threads = Threads()
    threads.start(lambda: all_of_them.run('key', first, PATIENCE))
    assert first.begun.wait(PATIENCE)
    all_of_them.forget('key')
    threads.start(lambda: all_of_them.run('key', second, PATIENCE))
    assert second.begun.wait(PATIENCE)
    first.go_on.set()
    assert all_of_them.run('key', lambda: 'third', None) is None
    second.go_on.set()
    assert sorted(threads.join()) == ['first', 'second']


def test_a_computation_of_itself_is_an_error():
    """It would wait for ever."""
    all_of_them = computations.Computations()

    def compute():
        return all_of_them.run('key', lambda: 'inner', PATIENCE)

    with pytest.raises(RuntimeError, match='itself'):
        all_of_them.run('key', compute, PATIENCE)
    assert all_of_them.run('key', lambda: 'later', PATIENCE) == 'later'


def test_other_flights_of_the_same_key_are_others():
    """A computation may ask another client for the same key."""
    outer, inner = computations.Computations(), computations.Computations()
    assert (
        outer.run(
            'key', lambda: inner.run('key', lambda: 'found', 1), PATIENCE
        )
        == 'found'
    )


def test_turns_come_one_after_another():
    """Of one key; others need not wait."""
    all_of_them = computations.Computations()
    active = []
    most = []

    def work():
        for _ in range(50):
            with all_of_them.locked('key'):
                active.append(None)
                most.append(len(active))
                with all_of_them.locked('another'):
                    active.pop()

    threads = Threads()
    for _ in range(4):
        threads.start(work)
    threads.join()
    assert set(most) == {1}


def test_a_turn_within_itself_is_an_error():
    """It would wait for ever."""
    all_of_them = computations.Computations()
    with (
        all_of_them.locked('key'),
        pytest.raises(RuntimeError, match='itself'),
        all_of_them.locked('key'),
    ):
        raise AssertionError('it was let in')
    with all_of_them.locked('key'):
        pass


@pytest.mark.parametrize('method', ['run', 'locked'])
def test_a_signal_at_any_point_leaves_nothing_behind(method):
    """Whoever comes next waits for nobody, and not for itself either."""
    under_way = computations.Computations()

    def once(result):
        if method == 'run':
            return under_way.run('key', lambda: result, PATIENCE)
        with under_way.locked('key'):
            return result

    for at in range(1, 1000):
        with faults.interrupted(at) as seen:
            once((at, 'first'))
        threads = Threads()
        threads.start(lambda at=at: once((at, 'other')))
        threads.join()
        began = time.monotonic()
        assert once((at, 'second')) == (at, 'second')
        assert threads.results == [(at, 'other')]
        assert time.monotonic() - began < PATIENCE
        if not seen:
            break
    assert 10 < at < 999


def test_a_forked_child_waits_for_nobody():
    """Threads that compute, or have a turn, stay with the parent."""
    all_of_them = computations.Computations()
    slow = Slow('outcome')
    threads = Threads()

    def in_turn():
        with all_of_them.locked('key'):
            return all_of_them.run('key', slow, PATIENCE)

    threads.start(in_turn)
    assert slow.begun.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        right = False
        with all_of_them.locked('key'):
            right = all_of_them.run('key', lambda: 'child', 1) == 'child'
        os._exit(0 if right else 1)
    _, status = os.waitpid(child, 0)
    slow.go_on.set()
    assert threads.join() == ['outcome']
    assert status == 0
