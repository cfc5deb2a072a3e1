"""Options of a command: from the dataclasses, a YAML file and the command line, in rising order of weight.

Law: nothing is declared twice. A field of a command's ``Options`` is an option; one that is itself a dataclass lends its fields.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, UseCounterAction, arg

from actlink import documents
from actlink import options as grammar
from actlink.errors import ConfigError

UNITS = ("_s", "_ms", "_hz", "_mib")


@dataclass(frozen=True)
class Common:
    """What every command takes."""

    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """YAML file with any of these options, by the same names; what is given on the command line wins."""
    verbose: Annotated[UseCounterAction[int], arg(aliases=["-v"])] = 0
    """More log; twice also shows where an error came from."""
    quiet: Annotated[FlagCreatePairsOff[bool], arg(aliases=["-q"])] = False
    """Only warnings and errors in the log."""


def parse(command: ModuleType, prog: str, arguments: Sequence[str]) -> Any:
    """``command.Options`` from ``arguments`` and the file they name; ends the process for ``--help`` and for wrong usage."""
    cls = command.Options
    arguments = [with_unit(argument, option_names(cls)) for argument in nested(arguments, getattr(command, "NESTED", None))]
    path = _config_file(arguments)
    default = None if path is None else default_from(cls, read_yaml(path, cls), arguments, str(path))
    return tyro.cli(cls, prog=prog, description=description(command), args=arguments, default=default)


def nested(arguments: Sequence[str], name: str | None) -> list[str]:
    """``--robot.type=x --robot.port y`` as the one option ``--robot type=x port=y``, for a command that has such an option."""
    if name is None:
        return list(arguments)
    rest: list[str] = []
    values: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        flag, separator, value = argument.partition("=")
        if flag.startswith(f"--{name}.") and len(flag) > len(name) + 3:
            if not separator:
                value = left.pop(0) if left else ""
            values.append(f"{flag[len(name) + 3 :]}={value}")
        elif flag == f"--{name}":
            values += [value] if separator else []
            while left and not left[0].startswith("-"):
                values.append(left.pop(0))
        else:
            rest.append(argument)
    return [*rest, *([f"--{name}", *values] if values else [])]


def description(command: ModuleType) -> str:
    """What ``--help`` says before the options: the module's docstring and its examples."""
    return f"{(command.__doc__ or '').strip()}\n\nExamples:\n{command.EXAMPLES.rstrip()}\n"


def read_yaml(path: Path, cls: type) -> dict[str, Any]:
    """The mapping in ``path``; keys are option names with ``-`` or ``_``."""
    found = documents.read(str(path), "--config")
    if not isinstance(found, Mapping):
        raise ConfigError(f"--config {path}: expected a mapping from option to value, got {type(found).__name__}")
    known = option_names(cls)
    given = {with_unit(f"--{key}", known)[2:].replace("-", "_"): value for key, value in found.items()}
    for key in given:
        if key not in known:
            raise ConfigError(f"--config {path}: unknown option {key!r}; known options: {', '.join(known)}")
    return given


def with_unit(argument: str, known: Sequence[str]) -> str:
    """``--log-every`` means ``--log-every-s``: a name may be written without its unit."""
    flag, separator, value = argument.partition("=")
    name = flag[2:].replace("-", "_")
    if not flag.startswith("--") or name in known:
        return argument
    full = next((f"{name}{unit}" for unit in UNITS if f"{name}{unit}" in known), name)
    return f"--{full.replace('_', '-')}{separator}{value}"


def option_names(cls: type) -> list[str]:
    """Every option of the command, those of nested dataclasses included; not those about the command line itself."""
    names: list[str] = []
    for name, hint in _hints(cls).items():
        if hint is not Common:
            names.extend(option_names(hint) if isinstance(hint, type) and is_dataclass(hint) else [name])
    return names


def default_from(cls: type, given: Mapping[str, Any], arguments: Sequence[str], where: str) -> Any:
    """What ``cls`` would be with the values of ``given``; required options that it lacks are marked as such.

    It is made without calling ``cls``, whose checks are for the finished options and not for these.
    """
    hints = _hints(cls)
    default: Any = object.__new__(cls)
    for field in fields(cls):
        name, hint = field.name, hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            value = default_from(hint, given, arguments, where)
        elif name in given and not _on_command_line(name, arguments):
            value = grammar.convert(_flattened(given[name]), hint, f"{where}: option {name!r}")
        else:
            value = _default(field)
        object.__setattr__(default, name, value)  # the way past a frozen dataclass that dataclasses themselves take
    return default


def _hints(cls: type) -> dict[str, Any]:
    """Field -> its type without tyro's annotations."""
    return {field.name: _bare(get_type_hints(cls)[field.name]) for field in fields(cls) if field.init}


def _bare(hint: Any) -> Any:
    return _bare(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return tyro.MISSING if field.default_factory is MISSING else field.default_factory()


def _on_command_line(name: str, arguments: Sequence[str]) -> bool:
    """tyro appends to a default where an option can be repeated; here the command line replaces what the file says."""
    flag = f"--{name.replace('_', '-')}"
    return any(argument == flag or argument.startswith(f"{flag}=") for argument in _dashed(arguments))


def _dashed(arguments: Sequence[str]) -> list[str]:
    return [argument.replace("_", "-") if argument.startswith("--") else argument for argument in arguments]


def _flattened(value: Any) -> Any:
    """What a file may say in more comfort: ``listen`` as a list of maps, options of a policy or environment as one map."""
    if isinstance(value, list):
        return [address_of(item) if isinstance(item, Mapping) else item for item in value]
    if isinstance(value, Mapping):
        return [f"{key}={_plain(item)}" for key, item in value.items()]
    return value


def _plain(value: Any) -> str:
    """As the grammar of options reads it: YAML."""
    import yaml

    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def address_of(parts: Mapping[str, Any]) -> str:
    """``{address: ws://0.0.0.0:8000, max_connections: 8}``, or with ``dialect``, ``transport``, ``host``, ``port``, ``model``."""
    from urllib.parse import urlencode

    left = {str(key): value for key, value in parts.items()}
    text = left.pop("address", None)
    if text is None:
        dialect, scheme = left.pop("dialect", "native"), left.pop("transport", "ws")
        if "path" in left:
            text = f"{dialect}+{scheme}://{left.pop('path')}"
        else:
            port = f":{left.pop('port')}" if "port" in left else ""
            model = f"/{left.pop('model')}" if left.get("model") else ""
            text = f"{dialect}+{scheme}://{left.pop('host', '127.0.0.1')}{port}{model}"
    if not left:
        return str(text)
    plain = {key: _plain(value) for key, value in left.items()}
    return f"{text}{'&' if '?' in str(text) else '?'}{urlencode(plain)}"


def _config_file(arguments: Sequence[str]) -> Path | None:
    for index, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return Path(argument.partition("=")[2])
        if argument == "--config":
            if index + 1 == len(arguments):
                raise ConfigError("--config: expected the path of a YAML file, got nothing")
            return Path(arguments[index + 1])
    return None


def set_up_log(common: Common) -> None:
    """Log lines of this package to stderr; what other libraries warn of gets there by itself."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("actlink")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if common.quiet else logging.DEBUG if common.verbose else logging.INFO)
