"""How the documentation is built."""

from sprockets.clients import memcached

project = 'sprockets.clients.memcached'
author = 'AWeber Communications'
copyright = '2014-2026, AWeber Communications'
release = memcached.__version__
version = release.rpartition('.')[0]

extensions = [
    'sphinx.ext.autodoc',
    'sphinx.ext.viewcode',
]
exclude_patterns = ['_build']

autodoc_default_options = {'member-order': 'bysource'}
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
python_use_unqualified_type_names = True

OTHERS = (
    '_asyncio',
    'asyncio',
    'collections',
    'concurrent',
    'datetime',
    'logging',
    'memcache',
    'multiprocessing',
    'os',
    'pytest',
    'sprockets',
    'tornado',
    'typing',
    'unittest',
)

# Names of other projects are named, not linked: the build needs no network.
# What is ours has to resolve.
nitpick_ignore_regex = [
    (
        r'py:.*',
        rf'(?!{project})({"|".join(OTHERS)})\b.*',
    ),
    (
        r'py:.*',
        r'(bool|bytes|dict|float|int|list|str|tuple|object|None)(\..*)?',
    ),
    # Types in signatures that are for type checkers, and on no page.
    (
        r'py:(class|obj)',
        rf'{project}\.(aio\.Methods|cached_function|loop|once|requests|watch)\b.*',
    ),
    (
        r'py:(class|obj)',
        rf'{project}\.(client\.[A-Z]|web\.responses\.Decorator)',
    ),
    (
        r'py:(class|obj)',
        r'(_\w+|abc\.Callable|functions\.Source)',
    ),
    # Docstrings of classes that have these methods by inheritance.
    (r'py:meth', r'(gets|cas)'),
    (r'py:exc', r'(Exception|OSError|RuntimeError|TypeError|ValueError)'),
]

html_theme = 'furo'
html_title = f'{project} {release}'
html_show_sphinx = False
