"""Ask a server what it serves, and measure the way there.

Prints the spec (what the policy takes and gives), the round-trip time of small messages and the offset between the two clocks.
No inference is involved; `actlink bench` measures that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from actlink.client import Credentials, PingResult, RemotePolicy, connect, given_spec
from actlink.commands._options import Common
from actlink.commands._show import percentile, spec_lines
from actlink.errors import ConfigError

EXAMPLES = """\
  actlink ping 127.0.0.1:8001
  actlink ping native+ws://gpu-box:8000 --count 100 --token-file token.txt
"""


@dataclass(frozen=True)
class Options:
    """Options of ``actlink ping``."""

    address: Annotated[Positional[str], arg(metavar="ADDRESS")]
    """dialect+transport://host:port or host:port (which is native+tcp)."""
    count: int = 10
    """How many round trips to measure."""
    spec: Path | None = None
    """YAML file with the spec, for servers whose wire announces none."""
    like: str | None = None
    """The same, from a local policy that has that spec."""
    credentials: OmitArgPrefixes[Credentials] = field(default_factory=Credentials)
    common: OmitArgPrefixes[Common] = field(default_factory=Common)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--count: expected at least 1, got {self.count}")


def run(options: Options) -> int:
    spec = given_spec(options.spec, options.like)
    with connect(options.address, spec=spec, credentials=options.credentials) as policy:
        print(f"{policy.url} serves{' (as was said; its wire tells nothing of it)' if spec is not None else ''}")
        print("\n".join(spec_lines(policy.served)))
        try:
            print(report(measure(policy, options.count)))
        except ConfigError as error:  # there are wires that cannot
            print(f"round trip  {error}; 'actlink bench' measures whole requests")
    return 0


def measure(policy: RemotePolicy, count: int) -> list[PingResult]:
    """``count`` round trips, after one that is not counted: the first also pays for what a connection sets up lazily."""
    policy.ping()
    return [policy.ping() for _ in range(count)]


def report(results: list[PingResult]) -> str:
    """Round-trip times in milliseconds, and the clock offset of the quickest one, which knows it best."""
    times = [result.round_trip_ms for result in results]
    best = min(results, key=lambda result: result.round_trip_ms)
    p50, p95 = percentile(times, 50), percentile(times, 95)
    offset = f"{best.clock_offset_ms:+.3f} ms, give or take {best.round_trip_ms / 2:.3f} ms"
    return (
        f"round trip  min {min(times):.3f} ms, p50 {p50:.3f} ms, p95 {p95:.3f} ms ({len(times)} pings)\n"
        f"clock       theirs minus ours {offset} (monotonic clocks)"
    )
