"""The import paths of vibe-rl's serving, answered by actlink; every other module is an installed vibe-rl's own."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
