"""The models of a server by name: engines that run, others made when first asked for. Law: a model is made once, and ends with all.

However many ask for a model at once, one thread makes it; what it is asked to make when the server ends is closed when it is there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from actlink.errors import ActlinkError, PolicyError, UnknownModelError
from actlink.policies._base import Policy
from actlink.serving.config import ServerConfig
from actlink.serving.engine import Engine
from actlink.serving.replicas import Replicas, replicas
from actlink.serving.statistics import Counters

logger = logging.getLogger("actlink.serving")

CLOSE_S = 5.0
"""How long a policy that is still inferring, although nobody waits, may take to come to its end."""

Make: TypeAlias = "Callable[[], Policy | Sequence[Policy]]"


class Models:
    """Lives on the event loop; ``engines`` may be read from anywhere."""

    def __init__(self, given: Mapping[str, Policy | Sequence[Policy] | Make], config: ServerConfig, counters: Counters) -> None:
        """``given``: name -> a policy, several of the same weights on several devices, or a function that loads either on demand.

        ``ConfigError`` if several policies under one name are not one policy several times over.
        """
        self._config = config
        self._counters = counters
        self._there: dict[str, Replicas] = {}
        self._makers: dict[str, Make] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        for name, model in given.items():
            if isinstance(model, Policy | Sequence):
                self._there[name] = replicas(name, model, config, counters)
            else:
                self._makers[name] = model
        self._default = next(iter(self._there), None)

    @property
    def engines(self) -> list[Engine]:
        """Those of all models that are there."""
        return [engine for each in list(self._there.values()) for engine in each]

    def welcomes(self, name: str) -> bool:
        """Whether a peer that names no model of its own can be admitted at once."""
        return name in self._there or (not name and self._default is not None)

    def knows(self, name: str) -> bool:
        """Whether a model of that name is served, or is loaded when asked for."""
        return name in self._there or name in self._makers

    def engines_of(self, name: str) -> Replicas:
        """The engines of a model that is there, of the first where ``name`` is empty; ``UnknownModelError`` if there is none."""
        if not name:
            if self._default is None:
                raise UnknownModelError("name a model; this server has no default one")
            return self._there[self._default]
        if name not in self._there:
            raise UnknownModelError(f"no model {name[:80]!r} is served here")
        return self._there[name]

    # Life

    def start(self) -> None:
        """Start every engine's thread."""
        for engine in self.engines:
            engine.start()

    async def warm_up(self) -> None:
        """Make every engine ready; ``PolicyError`` if a policy cannot take an observation of zeros."""
        for engine in self.engines:
            await engine.warm_up()

    async def close(self) -> None:
        """Close every policy; what is being loaded is waited for by nobody any more."""
        loading = list(self._loading.values())
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        for engine in self.engines:
            await engine.close(CLOSE_S)

    # On demand

    def load(self, name: str) -> asyncio.Future[None] | None:
        """Have a model loaded that is loaded on demand; None if there is nothing to wait for.

        The future ends with the ``ActlinkError`` that says why the model cannot be had; who asks again has it tried again.
        """
        if name not in self._makers:
            return None
        if name not in self._loading:
            self._loading[name] = task = asyncio.ensure_future(self._load(name))
            task.add_done_callback(lambda _: self._loading.pop(name))
        return self._loading[name]

    async def _load(self, name: str) -> None:
        logger.info("loading model %r", name)
        try:
            loaded = await _made_ready(await self._engines_for(name))
        except asyncio.CancelledError:
            raise
        except ActlinkError as error:
            logger.error("model %r cannot be loaded: %s", name, error)
            raise
        except BaseException as error:  # somebody's module may call sys.exit(), and must not take the server with it
            logger.exception("model %r cannot be loaded", name)
            raise PolicyError(
                f"model {name!r} cannot be loaded: {type(error).__name__}; the server's log has the details"
            ) from error
        self._there[name] = loaded
        del self._makers[name]
        logger.info("model %r is ready", name)

    async def _engines_for(self, name: str) -> Replicas:
        made = await _made(self._makers[name], name)
        try:
            return replicas(name, made, self._config, self._counters)
        except ActlinkError:
            _close(made)
            raise


async def _made(make: Make, name: str) -> Policy | Sequence[Policy]:
    """What ``make`` returns. On a daemon thread: it may take minutes, and a server that is told to end does not wait for it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Policy | Sequence[Policy], BaseException | None]] = loop.create_future()

    def work() -> None:
        made: Policy | Sequence[Policy] = ()
        failure = None
        try:
            made = make()
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(hand_over, made, failure)
        except RuntimeError:  # the server has ended
            _close(made)

    def hand_over(made: Policy | Sequence[Policy], failure: BaseException | None) -> None:
        if done.done():
            _close(made)
        else:
            done.set_result((made, failure))

    threading.Thread(target=work, name=f"actlink-load-{name}", daemon=True).start()
    made, failure = await done
    if failure is not None:
        raise failure
    return made


def _close(made: Policy | Sequence[Policy]) -> None:
    """Policies that nobody will run."""
    for policy in [made] if isinstance(made, Policy) else made:
        try:
            policy.close()
        except Exception:
            logger.exception("closing a model that is not served failed")


async def _made_ready(loaded: Replicas) -> Replicas:
    """The engines of a model, warm. Where one cannot be, all are closed: who asks next must find their memory free."""
    for engine in loaded:
        engine.start()
    try:
        for engine in loaded:
            await engine.warm_up()
    except BaseException:
        for engine in loaded:
            await engine.close(CLOSE_S)
        raise
    return loaded
