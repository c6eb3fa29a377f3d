"""Keeps what blocks, SQLite here, on a thread of its own."""

import asyncio
import concurrent.futures


class OnThread:
    """An object that is made, used and closed on one thread.

    A SQLite connection is for the thread that made it, and waiting for it
    must not stop the loop, which has other requests to answer.

    .. code-block:: python

        articles = OnThread(Database, 'articles.db')
        article = await articles.call('find', 'tornado')

    """

    def __init__(self, make, *arguments):
        self._make = make
        self._arguments = arguments
        self._executor = concurrent.futures.ThreadPoolExecutor(1)
        self._object = None

    async def call(self, method, *arguments):
        """Return what the object's method returns."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._call, method, arguments
        )

    def _call(self, method, arguments):
        if self._object is None:
            self._object = self._make(*self._arguments)
        return getattr(self._object, method)(*arguments)

    async def close(self):
        """Close the object, and end the thread."""
        await self.call('close')
        self._executor.shutdown()
