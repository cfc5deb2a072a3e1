"""``actlink``: the command line. Law: finds the command, turns errors into one line and an exit code; the work is in ``commands/``.

A command is a module of ``actlink.commands`` with ``Options`` (frozen dataclass), ``EXAMPLES`` (text) and ``run(options) -> int``.
Only the one that was named is imported, so ``--help`` is quick and ``ping`` needs no server's packages.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from actlink.errors import ActlinkError, ConfigError, StoppedError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes; ``eval`` adds 3 for a server that stayed away."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as the overview shows it."""

    module: str
    summary: str


COMMANDS = {
    "serve": Command("serve", "put a trained policy behind a network address"),
    "eval": Command("evaluate", "measure a policy, local or remote, in a simulator"),
    "run": Command("run", "run a robot by a policy behind an address"),
    "ping": Command("ping", "ask a server for its spec and measure the way there"),
    "bench": Command("bench", "put load on a server: latency, throughput, errors"),
    "check": Command("check", "compare a policy with an environment, or examine one of them"),
    "list": Command("listing", "what is there, and the pip line for what is missing"),
    "export": Command("export", "write a torch policy as ONNX, and compare the two"),
    "cameras": Command("cameras", "list the cameras of this machine, with a picture of each"),
    "tune": Command("tune", "find the strategy and its options for a delay: a sweep in simulated time"),
    "report": Command("report", "compare the results of evaluations"),
    "link": Command("link", "a bad link at will: delay, loss, blackholes, resets, from a seed"),
    "demo": Command("demo", "all of it: serve a bundled policy, evaluate it over the network"),
}

EXAMPLES = """\
examples:
  actlink demo                                    see it work, in about three minutes
  actlink serve aloha_transfer_cube               then, in another terminal:
  actlink eval --policy ws://127.0.0.1:8000 --env aloha_transfer_cube --episodes 20
  actlink serve --help                            each command explains itself
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``argv`` (default: the process's own); returns the exit code."""
    return _guarded(_command_first(list(sys.argv[1:] if argv is None else argv)))


def overview() -> str:
    """The text of ``actlink --help``."""
    lines = [f"  {name:8}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: actlink COMMAND [options]",
            "",
            "Trained robot policies behind a network address; robots and simulators in front of it.",
            "",
            "commands:",
            *lines,
            "",
            "  -h, --help  --version    every command also takes: --config FILE.yaml  -v (more log)  -q (less)",
            "",
            EXAMPLES.rstrip(),
        ]
    )


def _command_first(arguments: list[str]) -> list[str]:
    """``-v`` and ``-q`` may stand before the command."""
    flags = 0
    while flags < len(arguments) and arguments[flags] in ("-v", "-vv", "--verbose", "-q", "--quiet"):
        flags += 1
    return arguments[flags : flags + 1] + arguments[:flags] + arguments[flags + 1 :]


def _guarded(arguments: list[str]) -> int:
    try:
        try:
            code = _done(arguments)
        except SystemExit:  # --help, and wrong options
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, where it can be told that the reader has gone; at the very end it would be a traceback
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone (`actlink list ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ActlinkError as error:
        if _verbosity(arguments) >= 2:
            traceback.print_exc()
        say(str(error))
        return exit_code(error)
    except Exception as error:  # a bug, here or in somebody's policy or environment
        if _verbosity(arguments) >= 2:
            traceback.print_exc()
        say(f"{type(error).__name__}: {error} (unexpected; -vv shows where it came from)")
        return FAILED


def _done(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return OK if arguments else USAGE
    if arguments[0] == "--version":
        from actlink import __version__

        print(f"actlink {__version__}")
        return OK
    return _run(arguments[0], arguments[1:])


def exit_code(error: ActlinkError) -> int:
    """What the process ends with: the error's own wish, wrong use, or failure."""
    if isinstance(error, StoppedError):
        return error.exit_code
    return USAGE if isinstance(error, ConfigError) else FAILED


def _verbosity(arguments: list[str]) -> int:
    """How often ``-v`` was given; needed also where the options themselves are wrong."""
    return sum({"-v": 1, "--verbose": 1, "-vv": 2, "-vvv": 3}.get(argument, 0) for argument in arguments)


def _run(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no command {name!r}{meant} (there are: {', '.join(COMMANDS)})")
    from actlink.commands import _options

    module = importlib.import_module(f"actlink.commands.{COMMANDS[name].module}")
    options = _options.parse(module, f"actlink {name}", arguments)
    _options.set_up_log(options.common)
    logging.getLogger("actlink.cli").debug("options: %s", options)
    code: int = module.run(options)
    return code


def say(message: str) -> None:
    """One line for the person at the terminal, on stderr."""
    print(f"actlink: {message}", file=sys.stderr, flush=True)
