"""Which packages are there to compare with, and why others are not."""

import functools
import json
import pathlib
import sys
from importlib import metadata

REPORT = 'left-out.json'
"""A file in the environment: by package, why it could not be installed."""


def version(package):
    """Return the version of an installed package; None if it is not.

    :param str package: its name on the package index
    :rtype: str | None
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def missing(package):
    """Return why a package cannot be compared with, None if it can.

    :param str package: its name on the package index; None for this one
    :rtype: str | None
    """
    if package is None or version(package) is not None:
        return None
    return _report().get(package, 'not installed')


@functools.cache
def _report():
    path = pathlib.Path(sys.prefix, REPORT)
    return json.loads(path.read_text('utf-8')) if path.exists() else {}
