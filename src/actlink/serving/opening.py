"""How a peer comes to its session: in what time, to which model, with whose leave. Law: who may not come in costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from actlink import __version__
from actlink.dialects._base import Hello, Welcome
from actlink.errors import ActlinkError, DrainingError, InternalError
from actlink.serving.session import Guest, Host, Session
from actlink.transports._base import Connection


class Opening:
    """The way in of one peer; on wires whose hellos bind a session anew, it is gone more than once."""

    def __init__(self, host: Host, connection: Connection, *, model: str, any_path: bool, carries_token: bool) -> None:
        """``model`` is the listener's default; with ``any_path`` a path that names no model leads there.

        ``carries_token``: whether a peer can show a token on this wire.
        """
        self._host = host
        self._connection = connection
        self._model = connection.model or model
        if any_path and not host.models.knows(self._model):
            self._model = model
        self._carries_token = carries_token
        self._patience: asyncio.TimerHandle | None = None

    @property
    def stands_open(self) -> bool:
        """Whether a peer that says nothing of itself has its session at once."""
        return self._host.models.welcomes(self._model)

    def expect(self, handshake_s: float, silent: Callable[[], None]) -> None:
        """Call ``silent`` if no hello was accepted within ``handshake_s``."""
        self._patience = asyncio.get_running_loop().call_later(handshake_s, silent)

    def expect_no_more(self) -> None:
        """There was a hello, or nobody waits for one any longer."""
        if self._patience is not None:
            self._patience.cancel()

    def admit(self, hello: Hello, guest: Guest, later: Callable[[ActlinkError | None], None]) -> Session | None:
        """The session of a peer that has introduced itself; None while its model is being loaded.

        Then ``later`` is called: with nothing once the model is there and asking again is worth while, or with why it cannot be
        had. ``DrainingError``, ``UnauthorizedError`` or ``UnknownModelError`` if the peer may not come in.
        """
        token, model = self._connection.token, hello.model or self._model
        self._host.vet(hello, token=token, carries_token=self._carries_token)  # before anything is loaded for it
        loading = self._host.models.load(model)
        if loading is not None:
            self.expect_no_more()  # there was a hello; the rest is ours
            loading.add_done_callback(lambda done: later(_failure(done)))
            return None
        return self._host.admit(hello, guest, token=token, model=model, carries_token=self._carries_token)

    def welcome(self, session: Session, hello: Hello, limits: Mapping[str, int]) -> Welcome:
        """What the peer is told of ``session``."""
        config = self._host.config
        return Welcome(
            session=session.id,
            spec=session.engine.spec,
            episode=session.episode,
            limits=limits,
            heartbeat_s=config.heartbeat_s,
            deterministic=config.deterministic,
            server=f"actlink {__version__}",
            call=hello.call,
        )


def _failure(done: asyncio.Future[None]) -> ActlinkError | None:
    """Why a model could not be loaded; None if it is there."""
    if done.cancelled():
        return DrainingError("the server has shut down before the model was loaded")
    error = done.exception()
    if error is None or isinstance(error, ActlinkError):
        return error
    return InternalError(str(error))
