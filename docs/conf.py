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
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'

html_theme = 'furo'
html_title = f'{project} {release}'
