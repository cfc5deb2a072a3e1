"""One peer: its dialect, its connection, its session. Law: every question gets one answer, and no answer goes astray.

Runs on the event loop and never waits. What a peer does wrong is told to this peer alone, in its wire's manner.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

from actlink import __version__
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
    OverloadedError,
    RefusedError,
    RemoteProtocolError,
    SupersededError,
    UnknownModelError,
)
from actlink.policies._base import Result
from actlink.serving import intake
from actlink.serving.engine import Call
from actlink.serving.mailbox import Mailbox
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
        self._model = connection.model or model
        if dialect.any_path and not host.knows(self._model):
            self._model = model
        self._limits = limits
        self._carries_token = carries_token
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._calls: deque[Call] = deque()
        self._held: deque[tuple[Infer, float, float]] = deque()  # per-step wires: asked before the step before was answered
        self._mailbox: Mailbox | None = None
        if dialect.polled:
            self._mailbox = Mailbox(self._loop, self._send, self._send_frame, lambda: bool(self._calls))
        self._gone = False
        self._said_bye = False
        self._noted_unknown = False
        self._patience: asyncio.TimerHandle | None = None
        host.guests.add(self)
        if dialect.handshake:
            self._patience = self._loop.call_later(handshake_s, self._silent, handshake_s)
        elif host.welcomes(self._model):
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
        for call in list(self._calls):
            call.fail(DrainingError("the server has shut down before this request was answered"))
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
        self._host.vet(hello, token=self._connection.token, carries_token=self._carries_token)  # before anything is loaded for it
        loading = self._host.load(hello.model or self._model)
        if loading is not None:
            loading.add_done_callback(lambda done: self._loaded(hello, done))
            return
        session = self._host.admit(hello, self, token=self._connection.token, model=self._model, carries_token=self._carries_token)
        if self._session is not None:
            self._abandon()
            self._host.release(self._session, keep=False)
        self._session = session
        if self._patience is not None:
            self._patience.cancel()
        again = " again" if session.id == hello.resume else ""
        logger.info("%s: welcome%s to model %r", self._connection.peer, again, session.engine.name)
        self._send(
            Welcome(
                session=session.id,
                spec=session.engine.spec,
                episode=session.episode,
                limits=self._limits,
                heartbeat_s=self._host.config.heartbeat_s,
                deterministic=self._host.config.deterministic,
                server=f"actlink {__version__}",
                call=hello.call,
            )
        )

    def _loaded(self, hello: Hello, done: asyncio.Future[None]) -> None:
        """The model that ``hello`` asks for is there, or cannot be had."""
        error = done.exception()
        if self._gone:
            return
        if error is None:
            self._handle(hello, 0.0, 0.0)
        elif isinstance(error, ActlinkError) and self._session is None and self._dialect.handshake:
            self._refuse(error, hello.call)
        else:
            self._send(Failed(error if isinstance(error, ActlinkError) else InternalError(str(error)), call=hello.call))

    def _reset(self, event: Reset) -> None:
        session = cast(Session, self._session)
        episode = session.episode + 1 if event.episode is None else event.episode
        self._begin(session, episode)
        self._send(Done(episode, event.call))

    def _begin(self, session: Session, episode: int) -> None:
        """Enter an episode: what was asked in an earlier one is answered no more, what the policy remembers is dropped."""
        if episode < session.episode:
            raise SupersededError(f"episode {episode} is over; this session is in episode {session.episode}")
        for call in list(self._calls):
            call.fail(SupersededError(f"episode {session.episode} ended before this request was answered"))
        self._held.clear()
        if self._mailbox is not None:
            self._mailbox.clear()
        session.begin(episode)

    # Inference

    def _infer(self, event: Infer, arrived_s: float, decoded_s: float) -> None:
        session = cast(Session, self._session)
        self._counters.requests += len(event.lanes)
        if self._host.draining:
            raise DrainingError("the server is shutting down and takes no new work")
        if event.episode is not None and event.episode != session.episode:
            self._begin(session, event.episode)
        if self._dialect.execution is not None and self._calls:
            if len(self._held) >= self._host.config.queue_per_session:
                raise OverloadedError(f"{len(self._held)} requests of this peer wait for the one before them; no room for more")
            self._held.append((event, arrived_s, decoded_s))
            return
        session.widen(len(event.lanes), self._dialect.execution)
        steps = [session.step if lane.step is None else lane.step for lane in event.lanes]
        call = Call(event.call, steps, arrived_s, decoded_s, self._settled)
        self._calls.append(call)
        self._counters.open_calls += 1
        session.step = steps[0] + 1
        entries = intake.entries(session, event, call, self._dialect.newest_wins, self._count_unknown)
        if not entries:
            return
        try:
            session.engine.submit(entries)
        except RefusedError as error:
            call.fail(error)

    def _count_unknown(self, unknown: frozenset[str]) -> None:
        self._counters.unknown_keys += len(unknown)
        if not self._noted_unknown:
            self._noted_unknown = True
            names = ", ".join(sorted(name[:80] for name in unknown)[:8])
            logger.warning("%s: sends what the policy does not know, ignored: %s", self._connection.peer, names)

    def _settled(self, call: Call) -> None:
        if call.tag is not None:
            self._calls.remove(call)
            self._answer(call)
        else:  # a wire without call numbers tells answers apart by their order alone
            while self._calls and self._calls[0].settled:
                self._answer(self._calls.popleft())
        if self._held and not self._calls and not self._gone:
            self._handle(*self._held.popleft())

    def _answer(self, call: Call) -> None:
        call.open = False
        self._counters.open_calls -= 1
        results = self._executed(call)
        errors = [result for result in results if isinstance(result, ActlinkError)]
        if len(errors) == len(results):
            self._deliver(Failed(errors[0], call=call.tag))
            return
        for error in errors:
            self._counters.error(error.code)
        now_s = self._loop.time()
        server_ms = 1e3 * (now_s - call.arrived_s)
        timing = {"decode_ms": 1e3 * (call.decoded_s - call.arrived_s), **call.stages, "server_ms": server_ms, "clock_s": now_s}
        self._counters.answered += len(results) - len(errors)
        self._counters.latency(server_ms)
        self._deliver(Chunks(results, timing, call.tag))

    def _executed(self, call: Call) -> tuple[Result, ...]:
        """The results of the lanes; on per-step wires the action of this very step instead of the policy's chunk."""
        session = self._session
        if session is None or not session.steppers:
            return tuple(cast("list[Result]", call.results))
        lanes = zip(session.steppers, call.results, call.steps, strict=False)
        results = tuple(stepper.answer(result, step) for stepper, result, step in lanes)
        if all(isinstance(result, ActlinkError) for result in results) and session.step == call.steps[0] + 1:
            session.step -= 1  # nothing was answered, so the peer is still where it was
        return results

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
        """Nobody waits for the open calls any more."""
        if self._patience is not None:
            self._patience.cancel()
        self._held.clear()
        if self._mailbox is not None:
            self._mailbox.clear()
        for call in self._calls:
            call.open = False
        self._counters.open_calls -= len(self._calls)
        self._calls.clear()

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
