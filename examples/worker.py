"""The blocking client in a worker: puts articles into the cache in advance.

Articles that nobody has read for a while are slow the next time.  This looks
up the first of them before anybody asks, so that ``articles.py`` finds them
in memcached.  Start that first, then this, with the same database:

    python examples/articles.py --database articles.db
    python examples/worker.py --database articles.db

Without --database it makes one of its own, to show how it goes.

What happens without memcached: the worker says how many articles are not in
the cache, and exits with status 1, for whatever started it to try again.

"""

import argparse
import concurrent.futures
import os
import queue
import sys
import tempfile
import time

import articles

from sprockets.clients import memcached


def work(jobs, path, client):
    """Do jobs until there is none left.

    :param queue.Queue jobs: names of articles
    :param str path: the database
    :param memcached.Client client: one for all threads

    """
    database = articles.Database(path)
    try:
        while True:
            slug = jobs.get_nowait()
            article = database.find(slug)
            if article is not None:
                # Not set(): somebody may have edited it meanwhile.
                client.add(articles.key(slug), article, time=articles.EXPIRY)
    except queue.Empty:
        return
    finally:
        database.close()


def warm(path, count, threads):
    """Put articles into the cache, and return the exit status.

    :param str path: the database
    :param int count: how many articles
    :param int threads: how many threads do it

    """
    began = time.monotonic()
    # The threads share it: it has a connection for each call that is under
    # way, and what one thread learns about a server all of them know.
    client = memcached.Client('articles')
    database = articles.Database(path)
    slugs = {articles.key(slug): slug for slug in database.slugs(count)}
    database.close()

    # One round trip for all of them, and a dict of those that are there.
    there = client.get_multi(slugs)
    jobs = queue.Queue()
    for key, slug in slugs.items():
        if key not in there:
            jobs.put(slug)
    made = jobs.qsize()
    with concurrent.futures.ThreadPoolExecutor(threads) as executor:
        workers = [
            executor.submit(work, jobs, path, client) for _ in range(threads)
        ]
    for worker in workers:
        # An error in a thread is one of ours.
        worker.result()

    # add() cannot tell "there is one already" from "there is no memcached",
    # so that it takes another look to know.
    cached = len(client.get_multi(slugs))
    client.disconnect_all()
    seconds = time.monotonic() - began
    print(
        f'{cached} of {len(slugs)} articles are cached:'
        f' {len(there)} were, {made} had to be made, in {seconds:.1f} seconds'
    )
    return 0 if cached == len(slugs) else 1


def main():
    """Do what the command line asks for, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--database', metavar='FILE')
    parser.add_argument('--articles', type=int, default=100)
    parser.add_argument('--threads', type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.database or os.path.join(folder, 'articles.db')
        return warm(path, options.articles, options.threads)


if __name__ == '__main__':
    sys.exit(main())
