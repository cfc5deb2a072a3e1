"""Every error actlink raises on purpose, in one tree.

::

    ActlinkError                    error
    +-- ConfigError                 config              an option, file, name or address is wrong (ours to fix before running)
    |   +-- MissingPackageError     missing_package     an optional package is not installed; names the pip line
    +-- SpecError                   spec                a value does not fit the spec: where, expected, got
    +-- PolicyError                 policy              the policy failed on this request
    +-- SimulationError             simulation          an environment or robot cannot do what was asked (e.g. no GL to render)
    +-- StoppedError                stopped             a long run ended early; what is finished is kept, ``resume`` goes on
    |   +-- ServerAwayError         server_away         the server stayed away for longer than was allowed
    +-- ProtocolError               (abstract)
    |   +-- LocalProtocolError      local_protocol      we misused a dialect or transport
    |   +-- RemoteProtocolError     protocol            the peer sent bytes that its wire does not allow
    +-- RefusedError                refused             the server understood and said no
    |   +-- UnauthorizedError       unauthorized        token missing or wrong
    |   +-- UnknownModelError       unknown_model       no model of that name is served
    |   +-- OverloadedError         overloaded          queue full; answered at once
    |   +-- DeadlineError           deadline            the budget of the request ran out before inference
    |   +-- SupersededError         superseded          a newer observation of the same session took its place
    |   +-- DrainingError           draining            the server is shutting down, no new work
    |   +-- InternalError           internal            the server's own fault; its log has the traceback
    +-- LinkError                   link                the wire failed
        +-- ConnectError            connect             nobody answers there
        +-- LinkTimeoutError        timeout             no answer in time
        +-- LinkClosedError         closed              the peer went away
        +-- CameraError             camera              one camera of a robot gave no picture; the rest of the robot is well

``code`` is the machine-readable name that crosses the wire; ``from_code`` builds the class back. Messages say where, what was
expected and what came. Errors of other libraries are mapped to these at the edge of the layer that uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ActlinkError(Exception):
    """Root of the tree. ``infrastructure`` is True where the link or the server failed, not the task or the request."""

    code = "error"
    infrastructure = False


class ConfigError(ActlinkError):
    code = "config"


class MissingPackageError(ConfigError):
    code = "missing_package"


class SpecError(ActlinkError):
    code = "spec"


class PolicyError(ActlinkError):
    code = "policy"


class SimulationError(ActlinkError):
    code = "simulation"


class StoppedError(ActlinkError):
    """``resume`` is the command that goes on where this run stopped; empty where there is none."""

    code = "stopped"

    def __init__(self, message: str, *, resume: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.resume = resume
        self.exit_code = exit_code


class ServerAwayError(StoppedError):
    code = "server_away"

    def __init__(self, message: str, *, resume: str = "", exit_code: int = 3) -> None:
        super().__init__(message, resume=resume, exit_code=exit_code)


class ProtocolError(ActlinkError):
    """Abstract: raise ``LocalProtocolError`` (our fault) or ``RemoteProtocolError`` (theirs)."""

    def __init__(self, *args: object) -> None:
        if type(self) is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError")
        super().__init__(*args)


class LocalProtocolError(ProtocolError):
    code = "local_protocol"


class RemoteProtocolError(ProtocolError):
    code = "protocol"


class RefusedError(ActlinkError):
    code = "refused"


class UnauthorizedError(RefusedError):
    code = "unauthorized"


class UnknownModelError(RefusedError):
    code = "unknown_model"


class OverloadedError(RefusedError):
    code = "overloaded"
    infrastructure = True


class DeadlineError(RefusedError):
    code = "deadline"
    infrastructure = True


class SupersededError(RefusedError):
    code = "superseded"


class DrainingError(RefusedError):
    code = "draining"
    infrastructure = True


class InternalError(RefusedError):
    code = "internal"
    infrastructure = True


class LinkError(ActlinkError):
    code = "link"
    infrastructure = True


class ConnectError(LinkError):
    code = "connect"


class LinkTimeoutError(LinkError):
    code = "timeout"


class LinkClosedError(LinkError):
    code = "closed"


class CameraError(LinkError):
    """``camera`` is its name; ``observation`` is everything else that was observed in the same moment, other cameras included."""

    code = "camera"

    def __init__(self, message: str, *, camera: str = "", observation: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.camera = camera
        self.observation: Mapping[str, Any] = observation or {}


def _tree(root: type[ActlinkError]) -> dict[str, type[ActlinkError]]:
    found: dict[str, type[ActlinkError]] = {}
    for child in root.__subclasses__():
        found.update(_tree(child))
    if root is not ProtocolError:
        found[root.code] = root  # the class of this tree wins over one that a codec derived from it
    return found


def from_code(code: str, message: str) -> ActlinkError:
    """The error a peer named by ``code``; an unknown code becomes a ``RefusedError`` that keeps it in its message."""
    classes = _tree(ActlinkError)
    if code in classes:
        return classes[code](message)
    return RefusedError(f"{code}: {message}")
