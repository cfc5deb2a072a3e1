"""The folder is the registry. Law: adapters are found by file name and imported only when named.

``load("dialects", "native")`` imports ``actlink.dialects.native``; ``resolve("module:Class")`` and ``resolve("file.py:Class")``
reach a third party's. An adapter module may state ``REQUIRES`` (import names of the packages it needs) and ``EXTRA`` (the extra of
this distribution that installs them).
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from actlink.errors import ConfigError, MissingPackageError

FOLDERS = ("dialects", "transports", "policies", "environments", "robots")
"""Folders whose files without a leading underscore are adapters."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter file as ``actlink list`` shows it."""

    name: str
    summary: str
    """First line of the module's docstring."""
    missing: tuple[str, ...]
    """Packages it needs that are not installed."""
    install: str
    """The pip line that installs them; empty when nothing is missing."""


def names(folder: str) -> list[str]:
    """Adapter names in ``folder``, sorted."""
    package = importlib.import_module(f"actlink.{folder}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def load(folder: str, name: str) -> ModuleType:
    """The adapter module ``name`` of ``folder``; ``ConfigError`` lists what there is."""
    available = names(folder)
    if name not in available:
        raise ConfigError(f"no {_singular(folder)} {name!r}; there are: {', '.join(available)}")
    return importlib.import_module(f"actlink.{folder}.{name}")


def describe(folder: str, name: str) -> Adapter:
    """What the adapter is and what it lacks, without loading its framework."""
    module = load(folder, name)
    lacking = missing(module)
    summary = (module.__doc__ or "").strip().splitlines()[0] if module.__doc__ else ""
    return Adapter(name, summary, lacking, pip_line(module) if lacking else "")


def missing(module: ModuleType) -> tuple[str, ...]:
    """Import names in the module's ``REQUIRES`` that cannot be found."""
    return tuple(name for name in getattr(module, "REQUIRES", ()) if not _found(name))


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package that is not there, a module is asked for
        return False


def pip_line(module: ModuleType) -> str:
    """The command that installs what the adapter needs; an adapter may state its own as ``INSTALL``."""
    own = getattr(module, "INSTALL", None)
    extra = getattr(module, "EXTRA", None)
    return own or (f"pip install 'actlink[{extra}]'" if extra else f"pip install {' '.join(getattr(module, 'REQUIRES', ()))}")


def require(module: ModuleType) -> None:
    """Raise ``MissingPackageError`` with the pip line if the adapter's packages are not installed."""
    lacking = missing(module)
    if lacking:
        raise MissingPackageError(f"{module.__name__} needs {', '.join(lacking)}; install with: {pip_line(module)}")


def resolve(reference: str) -> Any:
    """The object named by ``module:Name`` or ``path/to/file.py:Name``.

    References come from the operator's command line or code, never from the wire.
    """
    place, separator, attribute = reference.rpartition(":")
    if not separator or not place or not attribute:
        raise ConfigError(f"expected 'module:Class' or 'file.py:Class', got {reference!r}")
    module = third_party(place, reference)
    try:
        return getattr(module, attribute)
    except AttributeError:
        public = ", ".join(name for name in vars(module) if not name.startswith("_")) or "nothing"
        raise ConfigError(f"{reference!r}: {place} has no {attribute!r}; it has: {public}") from None


def third_party(place: str, reference: str = "") -> ModuleType:
    """The module ``package.module`` or ``path/to/file.py``, imported; ``reference`` is what the error quotes."""
    return _import_file(Path(place)) if place.endswith(".py") else _import_module(place, reference or place)


def is_reference(text: str) -> bool:
    """Whether ``text`` looks like ``module:Class`` or ``file.py:Class`` (and not like an address or a bare name)."""
    place, separator, attribute = text.rpartition(":")
    return (
        bool(separator)
        and attribute.isidentifier()
        and "//" not in place
        and (place.endswith(".py") or all(part.isidentifier() for part in place.split(".")))
    )


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    name = f"_actlink_user_{path.stem}_{abs(hash(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    location = importlib.util.spec_from_file_location(name, path)
    if location is None or location.loader is None:
        raise ConfigError(f"{path}: not a Python file that can be imported")
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module  # before running it, as the import system does: dataclasses look themselves up
    try:
        location.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(f"{reference!r}: no module named {error.name!r} on the import path") from None
        raise


def _singular(folder: str) -> str:
    return {"policies": "policy family", "execution": "strategy"}.get(folder, folder.removesuffix("s"))
