"""One peer: its dialect, its connection, its session. Law: what a peer does wrong is told to this peer alone, in its wire's manner.

Runs on the event loop and never waits. How a session begins is in ``opening``, what becomes of observations in ``questions``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from actlink.dialects._base import (
    Bye,
    Chunks,
    Done,
    Event,
    Failed,
    Frame,
    Hello,
    Infer,
    Ping,
    Poll,
    Pong,
    Reply,
    Reset,
    Say,
    ServerDialect,
    Welcome,
)
from actlink.errors import (
    ActlinkError,
    DrainingError,
    InternalError,
    LocalProtocolError,
    RemoteProtocolError,
    SupersededError,
    UnknownModelError,
)
from actlink.serving.mailbox import Mailbox
from actlink.serving.opening import Opening
from actlink.serving.questions import Questions
from actlink.serving.session import Host, Session
from actlink.transports._base import Connection

logger = logging.getLogger("actlink.serving")


class Peer:
    """Receives a peer's frames and answers them; made for each connection of a listener."""

    def __init__(
        self,
        host: Host,
        dialect: ServerDialect,
        connection: Connection,
        *,
        model: str,
        limits: Mapping[str, int],
        handshake_s: float,
        carries_token: bool = True,
    ) -> None:
        """``model`` is the listener's default; ``limits`` go into the welcome; ``handshake_s`` is the time for a hello.

        ``carries_token``: whether a peer can show a token on this wire.
        """
        self._host = host
        self._counters = host.counters
        self._dialect = dialect
        self._connection = connection
        connection.close_code = dialect.close_code
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._opening = Opening(host, connection, model=model, any_path=dialect.any_path, carries_token=carries_token)
        self._questions = Questions(host, dialect, connection.peer, self._deliver, self._bug)
        self._mailbox: Mailbox | None = None
        if dialect.polled:
            self._mailbox = Mailbox(self._loop, self._send, self._send_frame, lambda: self._questions.open)
        self._gone = False
        self._said_bye = False
        host.guests.add(self)
        if dialect.handshake:
            self._opening.expect(handshake_s, partial(self._silent, handshake_s))
        elif self._opening.stands_open:
            self._handle(Hello(), 0.0, 0.0)

    # What the transport says

    def received(self, frame: Frame) -> None:
        """A whole frame has arrived."""
        if self._gone:
            return
        arrived_s = self._loop.time()
        try:
            events = self._dialect.receive(frame)
        except RemoteProtocolError as error:
            self._refuse(error)
            return
        except Exception:
            self._refuse(self._bug("reading a frame"))
            return
        decoded_s = self._loop.time()
        for event in events:
            if not self._gone:
                self._handle(event, arrived_s, decoded_s)

    def closed(self, reason: str) -> None:
        """The peer has gone: nothing of its waits any longer."""
        self._host.guests.discard(self)
        if self._session is not None:
            logger.info("%s: left%s", self._connection.peer, f" ({reason})" if reason else "")
        self._leave()

    # What the server says

    def goodbye(self) -> None:
        """The server is going: what is still unanswered is refused."""
        self._questions.fail(DrainingError("the server has shut down before this request was answered"))
        self._connection.close("the server is shutting down")
        self._leave()

    def replaced(self) -> None:
        """Another connection continues the session."""
        self._abandon()
        self._session = None
        self._gone = True
        self._connection.close("another connection continues this session")

    def _silent(self, handshake_s: float) -> None:
        self._refuse(RemoteProtocolError(f"expected a hello within {handshake_s:g} s, got none"))

    # Events

    def _handle(self, event: Event, arrived_s: float, decoded_s: float) -> None:
        call = getattr(event, "call", None)
        try:
            if self._session is None and not isinstance(event, Hello | Bye | Say):
                self._require_session(event)
            if isinstance(event, Infer):
                self._infer(event, arrived_s, decoded_s)
            else:
                self._answer_at_once(event, arrived_s)
        except RemoteProtocolError as error:
            self._refuse(error, call)
        except ActlinkError as error:
            if self._session is None and (self._dialect.handshake or call is None):
                self._refuse(error, call)  # a refused hello leaves nothing to talk about
            elif isinstance(event, Infer):
                self._deliver(Failed(error, call=call))
            else:
                self._send(Failed(error, call=call))
        except Exception:
            self._send(Failed(self._bug(f"handling {type(event).__name__}"), call=call))

    def _answer_at_once(self, event: Event, arrived_s: float) -> None:
        if isinstance(event, Ping):
            self._send(Pong(event.sent_s, arrived_s, self._loop.time(), event.call))
        elif isinstance(event, Reset):
            self._reset(event)
        elif isinstance(event, Hello):
            self._hello(event)
        elif isinstance(event, Say):
            self._connection.send(event.frames)
        elif isinstance(event, Poll) and self._mailbox is not None:
            self._mailbox.poll(event)
        elif isinstance(event, Bye):
            self._said_bye = True
            self._connection.close()
            self._leave()
        else:
            raise LocalProtocolError(f"no session knows the event {type(event).__name__}")

    def _require_session(self, event: Event) -> None:
        name = type(event).__name__.lower()
        if self._dialect.handshake:
            raise RemoteProtocolError(f"expected a hello first, got {name}")
        raise UnknownModelError(f"no model was chosen, and this server has no default one; got {name}")

    def _hello(self, hello: Hello) -> None:
        """Admit the peer, or bind it to the model it names by now."""
        if self._session is not None and self._dialect.handshake:
            raise RemoteProtocolError("expected one hello, got a second")
        session = self._opening.admit(hello, self, partial(self._loaded, hello))
        if session is None:
            return
        if self._session is not None:
            self._abandon()
            self._host.release(self._session, keep=False)
        self._session = session
        self._opening.expect_no_more()
        again = " again" if session.id == hello.resume else ""
        logger.info("%s: welcome%s to model %r", self._connection.peer, again, session.engine.name)
        self._send(self._opening.welcome(session, hello, self._limits))

    def _loaded(self, hello: Hello, error: ActlinkError | None) -> None:
        """The model that ``hello`` asks for is there, or cannot be had."""
        if self._gone:
            return
        if error is None:
            self._handle(hello, 0.0, 0.0)
        elif self._session is None and self._dialect.handshake:
            self._refuse(error, hello.call)
        else:
            self._send(Failed(error, call=hello.call))

    def _reset(self, event: Reset) -> None:
        session = cast(Session, self._session)
        episode = session.episode + 1 if event.episode is None else event.episode
        self._begin(session, episode)
        self._send(Done(episode, event.call))

    def _infer(self, event: Infer, arrived_s: float, decoded_s: float) -> None:
        session = cast(Session, self._session)
        self._counters.requests += len(event.lanes)
        if self._host.draining:
            raise DrainingError("the server is shutting down and takes no new work")
        if event.episode is not None and event.episode != session.episode:
            self._begin(session, event.episode)
        if not self._gone:  # on some wires the failure of what was asked before ends the connection
            self._questions.ask(session, event, arrived_s, decoded_s)

    def _begin(self, session: Session, episode: int) -> None:
        """Enter an episode: what was asked in an earlier one is answered no more, what the policy remembers is dropped."""
        if episode < session.episode:
            raise SupersededError(f"episode {episode} is over; this session is in episode {session.episode}")
        self._questions.fail(SupersededError(f"episode {session.episode} ended before this request was answered"))
        if self._mailbox is not None:
            self._mailbox.clear()
        session.begin(episode)

    # Frames out, and the end

    def _deliver(self, reply: Chunks | Failed) -> None:
        """Answer an ``Infer``: now, or when the peer comes for it."""
        if self._mailbox is not None:
            self._mailbox.put(reply)
        else:
            self._send(reply)

    def _send_frame(self, frame: Frame) -> None:
        self._connection.send([frame])

    def _send(self, reply: Reply) -> None:
        if isinstance(reply, Failed):
            self._counters.error(reply.error.code)
        try:
            frames = self._dialect.send(reply)
        except Exception:
            error = self._bug(f"writing {type(reply).__name__}")
            if isinstance(reply, Failed | Welcome):
                self._close(error)
            else:
                self._send(Failed(error, call=reply.call))
            return
        self._connection.send(frames)
        if self._dialect.ended is not None and not self._gone:
            self._close(self._dialect.ended)

    def _refuse(self, error: ActlinkError, call: Any = None) -> None:
        """Tell the peer and close the connection."""
        logger.warning("%s: turned away: %s", self._connection.peer, error)
        self._send(Failed(error, fatal=True, call=call))
        if not self._gone:
            self._close(error)

    def _close(self, error: ActlinkError) -> None:
        self._connection.close(str(error), error=True)
        self._leave()

    def _leave(self) -> None:
        self._gone = True
        self._abandon()
        session, self._session = self._session, None
        if session is not None:
            self._host.release(session, keep=self._dialect.handshake and not self._said_bye)

    def _abandon(self) -> None:
        """Nobody waits for the open questions any more."""
        self._opening.expect_no_more()
        self._questions.abandon()
        if self._mailbox is not None:
            self._mailbox.clear()

    def _bug(self, doing: str) -> InternalError:
        """Called while handling an exception that nobody foresaw: the log gets all of it, the peer a word."""
        logger.exception("%s: bug while %s", self._connection.peer, doing)
        return InternalError(f"the server failed while {doing}; its log has the details")


class Stranger:
    """Stands for a peer that was turned away: what it still sends is nobody's."""

    def received(self, frame: Frame) -> None:
        pass

    def closed(self, reason: str) -> None:
        pass
