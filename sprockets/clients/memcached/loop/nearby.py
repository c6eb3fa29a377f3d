"""The way to a server that is in this process: a hit takes no batch."""

from __future__ import annotations

import time
import typing

from sprockets.clients.memcached.data import values
from sprockets.clients.memcached.loop import batches, lanes
from sprockets.clients.memcached.wire import memory

TURN = 64
"""Reads after which one is given in the next turn of the loop: who only ever
awaits reads must let others run."""

LIGHT = values.HEAVY // TURN
"""What a value may weigh that is made at once."""


class Lane(lanes.Lane):
    """A lane where a hit is there at once, unless writes are under way."""

    def __init__(self, *args: typing.Any) -> None:
        super().__init__(*args)
        self._store = memory.STORES[self.endpoint.address.family]
        self._reads = 0

    def read(self, waiter: batches.Waiter) -> None:
        self._reads += 1
        if self._reads == TURN:
            self._reads = 0
        elif (
            waiter[4] is None
            and (not (self._waiting or self._in_flight) or self._only_reads())
            and self._give(waiter)
        ):
            return
        super().read(waiter)

    def _only_reads(self) -> bool:
        """Whether no call under way writes: a read may not overtake it."""
        for batch in self._waiting:
            if batch.writing:
                return False
        return not any(batch.writing for batch in self._in_flight)

    def _give(self, waiter: batches.Waiter) -> bool:
        """Give a caller its value.

        :return: False if there is none, or if it is not to be made at once

        """
        now = time.monotonic()
        item = self._store.hit(waiter[0], now)
        if item is None:
            return False
        flags, data = item.kind, item.value
        if flags not in values.PLAIN and (
            values.weight(flags, len(data)) > LIGHT
        ):
            self._store.uncount()
            return False
        try:
            value = self.codec.decoders[flags](data)
        # It is rare, and is looked at there.
        except Exception:  # noqa: BLE001
            self._store.uncount()
            return False
        counters = self.counters
        if now >= counters.until:
            counters.turn(now)
        counters.batches += 1
        counters.calls += 1
        counters.hits += 1
        waiter[1].set_result(value)
        return True
