"""The Tornado face: mixins, hooks, the status page."""
