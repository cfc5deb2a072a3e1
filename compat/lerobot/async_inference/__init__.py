"""LeRobot's asynchronous inference; what is not here comes from an installed lerobot, if there is one."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
