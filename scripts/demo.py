"""Installs what the demonstration needs, then starts it."""

import argparse
import os
import sys

import commands
import environments
import pythons
import system

SERVERS = ('ARTICLES_MEMCACHED_SERVERS', 'MEMCACHED_SERVERS')
"""The variables that name the servers for the application."""

DESCRIPTION = """\
Start the Tornado application of examples/articles.py on a memcached of its
own, and tell what to try. With the environment variable MEMCACHED_SERVERS set,
those servers are used instead. What is needed is installed first, in the
folder .venvs of the checkout; memcached comes from the system's package
manager if there is none. Ctrl-C ends it all."""


def arguments():
    """Return what the command line asks for.

    :rtype: argparse.Namespace

    """
    parser = argparse.ArgumentParser(
        prog='scripts/demo', description=DESCRIPTION
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='make the requests, show them with their answers, and stop;'
        ' exit with 0 if all went well',
    )
    parser.add_argument(
        '--port',
        type=int,
        default=0,
        help='where the application listens; a free port if not given',
    )
    return parser.parse_args()


def servers():
    """Return the servers that the environment names, None if it names none.

    :rtype: str

    """
    return next(filter(None, map(os.environ.get, SERVERS)), None)


def main():
    """Set everything up, and let ``show.py`` take over this process."""
    arguments()
    print('Setting up ...', flush=True)
    if not servers():
        system.provide(system.MEMCACHED)
    programs = environments.provide('demo', pythons.own(), 'installation.txt')
    python = os.fspath(programs / 'python')
    show = os.path.join(os.path.dirname(__file__), 'show.py')
    os.execv(python, [python, show, *sys.argv[1:]])


if __name__ == '__main__':
    commands.main(main)
