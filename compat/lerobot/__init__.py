"""LeRobot's import paths. What is not here comes from an installed lerobot, if there is one."""

import contextlib
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

with contextlib.suppress(ModuleNotFoundError):
    from lerobot.__version__ import __version__ as __version__  # the installed one's
