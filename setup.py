"""How sprockets.clients.memcached is built and what it needs."""

import ast
import pathlib

import setuptools

HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = HERE / 'sprockets' / 'clients' / 'memcached'


def read_version():
    """Return the literal ``__version__`` of the package.

    Importing the package instead would need its requirements, which are
    not installed while it is built.
    """
    source = (PACKAGE / '__init__.py').read_text('utf-8')
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id='__version__')], value=value):
                return ast.literal_eval(value)
            case ast.AnnAssign(
                target=ast.Name(id='__version__'), value=ast.expr() as value
            ):
                return ast.literal_eval(value)
    raise RuntimeError(f'{PACKAGE}/__init__.py has no literal __version__')


def read_requirements(name):
    """Return the requirements in a file, those of its ``-r`` lines too."""
    requirements = []
    for line in (HERE / 'requirements' / name).read_text('utf-8').splitlines():
        line = line.partition('#')[0].strip()
        if line.startswith('-r '):
            requirements += read_requirements(line.removeprefix('-r ').strip())
        elif line:
            requirements.append(line)
    return requirements


setuptools.setup(
    name='sprockets.clients.memcached',
    version=read_version(),
    description=(
        'memcached for Tornado: configured by the environment, awaitable, fast'
    ),
    long_description=(HERE / 'README.rst').read_text('utf-8'),
    long_description_content_type='text/x-rst',
    url='https://github.com/sprockets/sprockets.clients.memcached',
    project_urls={
        'Documentation': 'https://sprocketsclientsmemcached.readthedocs.io',
    },
    author='AWeber Communications',
    author_email='api@aweber.com',
    license='BSD-3-Clause',
    license_files=['LICENSE'],
    classifiers=[
        'Development Status :: 5 - Production/Stable',
        'Framework :: AsyncIO',
        'Intended Audience :: Developers',
        'Natural Language :: English',
        'Operating System :: MacOS',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Programming Language :: Python :: 3.15',
        'Programming Language :: Python :: Implementation :: CPython',
        'Topic :: Internet :: WWW/HTTP',
        'Topic :: Software Development :: Libraries',
        'Topic :: Software Development :: Libraries :: Python Modules',
        'Typing :: Typed',
    ],
    keywords='memcached cache tornado asyncio sprockets',
    # Neither sprockets nor sprockets.clients is a package of ours to
    # define: with an __init__.py in either, only one sprockets package
    # could be installed at a time. sprockets itself is listed for the sake
    # of "pip install -e": older sprockets packages bring a .pth file that
    # fixes where sprockets is searched, and ours is found all the same only
    # if the topmost name is among the packages.
    packages=setuptools.find_namespace_packages(
        include=['sprockets', 'sprockets.*']
    ),
    package_data={
        'sprockets.clients.memcached': ['py.typed', 'web/status.html']
    },
    python_requires='>=3.11',
    install_requires=read_requirements('installation.txt'),
    entry_points={
        'pytest11': [
            'sprockets-memcached = sprockets.clients.memcached.pytest_plugin'
        ],
    },
    extras_require={
        'cli': ['rich>=13'],
        'development': read_requirements('development.txt'),
        'docs': read_requirements('docs.txt'),
        'opentelemetry': ['opentelemetry-api>=1.30'],
        'testing': read_requirements('testing.txt'),
        'zstd': ['backports.zstd>=1; python_version < "3.14"'],
    },
    zip_safe=False,
)
