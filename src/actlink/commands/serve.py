"""Put a trained policy behind a network address.

POLICY is a checkpoint directory or file, a bundled name (`actlink list policies`), family:source, file.py:Class, module:Class, or
the address of another server: then this one is a gateway that speaks to its clients and asks the other. Without --listen it serves
at native+ws://127.0.0.1:8000. Ctrl-C answers what was accepted and ends; a second one ends at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from actlink import __version__, loading
from actlink import address as addresses
from actlink import options as grammar
from actlink.client import Credentials, connect, given_spec
from actlink.commands._options import Common
from actlink.commands._show import spec_lines
from actlink.errors import ConfigError
from actlink.policies._base import Policy
from actlink.policies._open import open_policy
from actlink.serving.server import DEFAULT_LISTEN, Server, ServerConfig
from actlink.spec import Spec
from actlink.types import Runtime

EXAMPLES = """\
  actlink serve aloha_transfer_cube --listen native+ws://127.0.0.1:8000 --listen native+tcp://127.0.0.1:8001
  actlink serve my_policy.py:MyPolicy --policy-options checkpoint=run7.pt --listen tcp://0.0.0.0:8001 --token-file tokens
"""


@dataclass(frozen=True)
class Upstream:
    """What a gateway shows the other server."""

    upstream_token_file: Path | None = None
    """Gateway: file whose first line is the token for the other server."""
    upstream_token_fd: int | None = None
    """Gateway: the same from an open file descriptor."""
    upstream_tls_ca: Path | None = None
    """Gateway: PEM file with the certificates to trust, where the other address is TLS; None = those that this system trusts."""
    upstream_tls_certificate: Path | None = None
    """Gateway: PEM file with the certificate to show the other server, if it asks for one."""
    upstream_tls_key: Path | None = None
    """Gateway: PEM file with its private key; None = it is in the same file."""
    upstream_curve_server_key: Path | None = None
    """Gateway: file with the other server's public key, where it speaks CURVE."""
    upstream_curve_key: Path | None = None
    """Gateway: file with the secret key to show it; None = a fresh one each time."""

    @property
    def credentials(self) -> Credentials:
        return Credentials(**{each.name.removeprefix("upstream_"): getattr(self, each.name) for each in fields(self)})


@dataclass(frozen=True)
class Options:
    """Options of ``actlink serve``."""

    policy: Annotated[Positional[str], arg(metavar="POLICY")]
    """What to serve."""
    listen: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="ADDRESS")] = ()
    """Where: dialect+transport://host:port[/model][?option=value]; may be given several times. Port 0 = any free one."""
    allow_model: Annotated[tuple[str, ...], arg(metavar="NAME=POLICY ...")] = ()
    """Further policies that clients may ask for by name, each loaded when the first one does; no other name loads anything."""
    policy_type: str | None = None
    """The family of a local checkpoint that several families recognise, or none; None = whichever recognises it."""
    policy_options: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """Options of the policy's family; an unknown one is answered with the list of those there are."""
    spec: Path | None = None
    """YAML file with the spec, for policies and upstream servers that state none."""
    like: str | None = None
    """Gateway: a local policy (bundled name, directory, ...) that has the spec of an upstream server that states none."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps: where the policy runs."""
    devices: Annotated[tuple[str, ...], arg(metavar="DEVICE,DEVICE ...")] = ()
    """Several devices, such as cuda:0,cuda:1: the policy is loaded on each, and every session stays on the one it began on."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """What the policy computes in, where its family can choose; None = as the checkpoint says."""
    threads: int | None = None
    """Threads inside one inference; None = the family's own choice."""
    upstream: OmitArgPrefixes[Upstream] = field(default_factory=lambda: Upstream())
    server: OmitArgPrefixes[ServerConfig] = field(default_factory=ServerConfig)
    common: OmitArgPrefixes[Common] = field(default_factory=Common)


def run(options: Options) -> int:
    allowed = grammar.parse_pairs(options.allow_model, "--allow-model")
    policies = open_served(options)
    try:
        spec, facts = policies[0].spec, policies[0].facts
        models: dict[str, Sequence[Policy] | Callable[[], Sequence[Policy]]] = {spec.name or "default": policies}
        for name, reference in allowed.items():
            models.setdefault(name, partial(_on_each_device, reference, options, {}))
        server = Server(models, options.listen or DEFAULT_LISTEN, options.server)
    except BaseException:
        _close(policies)
        raise
    facts = {**facts, "device": ", ".join(policy.facts.get("device", "") for policy in policies)} if "device" in facts else facts

    def started() -> None:
        gc.collect()
        gc.freeze()  # this process serves and does nothing else: what it has loaded need never be walked through again
        print(announcement(spec, server.addresses, options, facts), flush=True)

    server.serve(started)
    return 0


def open_served(options: Options) -> list[Policy]:
    """The policy on each of its devices, or for an address the remote one."""
    if not addresses.is_address(options.policy):
        if options.upstream != Upstream():
            raise ConfigError(f"--upstream-... options go with the address of another server; {options.policy!r} is none")
        return _on_each_device(options.policy, options, _policy_options(options))
    if options.policy_options or options.policy_type:
        raise ConfigError("--policy-options and --policy-type: they belong to the server that loads the policy, not to a gateway")
    if options.devices:
        raise ConfigError("--devices: they belong to the server that loads the policy, not to a gateway")
    return [connect(options.policy, spec=given_spec(options.spec, options.like), credentials=options.upstream.credentials)]


def _on_each_device(reference: str, options: Options, chosen: Mapping[str, Any]) -> list[Policy]:
    """One policy for each device; none if one of them cannot have it."""
    found: list[Policy] = []
    try:
        for runtime in _runtimes(options):
            found.append(open_policy(reference, runtime, chosen))  # noqa: PERF401 - those before a failure are closed
    except BaseException:
        _close(found)
        raise
    return found


def _close(policies: Sequence[Policy]) -> None:
    for policy in policies:
        policy.close()


def _runtimes(options: Options) -> list[Runtime]:
    devices = [device.strip() for part in options.devices for device in part.split(",")]
    if devices and options.device != "cpu":
        raise ConfigError("give one device or several (--device or --devices), not both")
    if not all(devices):
        raise ConfigError(f"--devices: expected names such as cuda:0,cuda:1, got {','.join(options.devices)!r}")
    return [Runtime(device, options.threads, options.server.deterministic, options.dtype) for device in devices or [options.device]]


def _policy_options(options: Options) -> dict[str, Any]:
    chosen: dict[str, Any] = dict(grammar.parse_pairs(options.policy_options, "--policy-options"))
    if options.policy_type is not None:
        chosen["policy_type"] = options.policy_type
    if options.spec is not None:
        chosen["spec"] = str(options.spec)
    return chosen


def announcement(spec: Spec, bound: Sequence[str], options: Options, facts: Mapping[str, str] | None = None) -> str:
    """What a person wants to know now: what is served, where, how healthy it is, and what to type next."""
    shown = shown_by_clients(options.server)
    lines = [f"actlink {__version__} serves", *spec_lines(spec, facts), "at"]
    lines += [f"  {address}" for address in bound]
    lines += [f"health\n  {url}" for url in health_urls(bound)[:1]]
    served = [address for address in bound if not address.startswith("native+http")]
    if served:
        lines += [
            "next, in another terminal",
            f"  actlink eval --policy {reachable(served[0])} --env {environment_for(spec)}{shown}",
        ]
    return "\n".join(lines)


def shown_by_clients(config: ServerConfig) -> str:
    """The options with which a client gets in."""
    token = " --token-file TOKEN_FILE" if config.token_file is not None or config.token_fd is not None else ""
    authority = " --tls-ca CA_FILE" if config.tls_certificate is not None else ""
    own = " --tls-certificate CERTIFICATE_FILE --tls-key KEY_FILE" if config.tls_client_ca is not None else ""
    curve = " --curve-server-key KEY_FILE" if config.curve_key is not None else ""
    return f"{token}{authority}{own}{curve}"


def health_urls(bound: Sequence[str]) -> list[str]:
    """Pages that tell whether the server is alive; WebSocket listeners have them on their own port."""
    found = [addresses.parse(address) for address in bound]
    return [
        f"{'https' if each.tls else 'http'}://{_host(reachable_host(each.host))}:{each.port}/healthz"
        for each in found
        if each.transport in ("websocket", "http") and not each.path
    ]


def reachable(address: str) -> str:
    """``address`` as a client on this machine writes it: nobody connects to 0.0.0.0."""
    parsed = addresses.parse(address)
    return address.replace(_host(parsed.host), _host(reachable_host(parsed.host)), 1) if not parsed.path else address


def reachable_host(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def environment_for(spec: Spec) -> str:
    """The environment that a policy of this name was made for, where its name says so; else a place holder."""
    files = loading.names("environments")
    return spec.name if any(spec.name == file or spec.name.startswith(f"{file}_") for file in files) else "ENV"
