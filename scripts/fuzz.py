"""Installs what tests need, then starts the fuzz of ``tests/fuzzing.py``."""

import os
import sys

import commands
import environments
import pythons


def main():
    """Set everything up, and let ``fuzzing.py`` take over this process."""
    programs = environments.provide('fuzz', pythons.own(), 'testing.txt')
    python = os.fspath(programs / 'python')
    tests = os.path.join(os.path.dirname(__file__), os.pardir, 'tests')
    fuzzing = os.path.join(tests, 'fuzzing.py')
    os.execv(python, [python, fuzzing, *sys.argv[1:]])


if __name__ == '__main__':
    commands.main(main)
