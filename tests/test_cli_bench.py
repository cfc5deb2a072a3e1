"""``actlink bench``: the load it makes, what it counts, and what it says."""

from __future__ import annotations

import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from actlink import Field, Spec
from actlink.commands import _load, bench
from actlink.commands._load import Load, Outcome, observations
from actlink.commands.bench import Options, parse_sizes, report, spread
from actlink.errors import ConfigError, InternalError
from cli_world import Process, actlink, serving

SPEC = Spec(
    {
        "state": Field((3,), range=(-0.5, 0.5)),
        "free": Field((None,)),
        "choice": Field((1,), "int64", range=(2, 4)),
        "button": Field((2,), "bool"),
        "prompt": Field((), "str"),
        "images.top": Field((None, None, 3), "uint8"),
        "images.wrist": Field((4, 5, 3), "uint8"),
    },
    Field((1,)),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, str, str]]:
    with serving(tmp_path_factory.mktemp("server")) as running_server:
        yield running_server


# The observations it sends.


def test_observations_fit_the_spec_and_differ() -> None:
    some = list(islice(observations(SPEC, {"": (6, 8), "wrist": (4, 5)}, seed=1), 3))
    for one in some:
        assert set(SPEC.check(one)) == set(SPEC.observation)
        top = one["images.top"]
        assert isinstance(top, np.ndarray) and top.shape == (6, 8, 3)
    assert not np.array_equal(some[0]["state"], some[1]["state"])


def test_equal_seeds_give_equal_observations() -> None:
    one, other = (next(observations(SPEC, {}, seed=7)) for _ in range(2))
    assert all(np.array_equal(np.asarray(one[key]), np.asarray(other[key])) for key in one)


def test_a_size_that_the_spec_does_not_leave_open_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"images\.wrist is 4x5 in the spec, got 9x9"):
        next(observations(SPEC, {"wrist": (9, 9)}, seed=0))


@pytest.mark.parametrize(
    ("texts", "sizes"),
    [((), {}), (("480x640",), {"": (480, 640)}), (("48x64", "wrist=24x32"), {"": (48, 64), "wrist": (24, 32)})],
)
def test_sizes(texts: tuple[str, ...], sizes: dict[str, tuple[int, int]]) -> None:
    assert parse_sizes(texts) == sizes


@pytest.mark.parametrize("text", ["480", "480x", "x640", "0x640", "top:480x640", "top=", "4.5x6", "-1x2", ""])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="--image-sizes: expected HEIGHTxWIDTH or camera=HEIGHTxWIDTH"):
        parse_sizes((text,))


# How clients are spread.


@pytest.mark.parametrize(("clients", "processes", "shares"), [(1, None, [1]), (5, 2, [3, 2]), (2, 8, [1, 1]), (7, 3, [3, 2, 2])])
def test_clients_are_spread_evenly(clients: int, processes: int | None, shares: list[int]) -> None:
    loads = spread(Options("a:1", clients=clients, processes=processes))
    assert [load.clients for load in loads] == shares
    assert len({load.seed for load in loads}) == len(loads)


def test_many_clients_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [load.clients for load in spread(Options("a:1", clients=10))] == [3, 3, 2, 2]


def test_the_spec_of_a_wire_that_announces_none_is_handed_on() -> None:
    (load,) = spread(Options("a:1", like="scripted:zero?state=2&action=3"))
    assert load.spec is not None and load.spec.action_dim == 3
    assert spread(Options("a:1"))[0].spec is None


@pytest.mark.parametrize("option", ["--clients", "--duration-s", "--rate-hz", "--processes"])
def test_numbers_must_be_above_zero(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("bench", "a:1", option, "0") == 2
    assert f"actlink: {option}: expected more than 0, got 0" in capsys.readouterr().err


# A run.


def test_a_run_with_a_plot(server: tuple[Process, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "deep" / "bench.png"
    assert actlink("bench", server[2], "--clients", "3", "--processes", "2", "--duration", "1", "--plot", str(plot)) == 0
    out = capsys.readouterr().out
    assert "3 client(s) in 2 process(es), each as fast as it is answered" in out
    answered = re.search(r"^answered    (\d+) requests, [\d.]+ per second$", out, re.MULTILINE)
    assert answered is not None and int(answered[1]) > 3
    assert re.search(r"^latency     p50 [\d.]+ ms, p95 [\d.]+ ms, p99 [\d.]+ ms, max [\d.]+ ms$", out, re.MULTILINE)
    assert re.search(r"^medians     .*infer [\d.]+ ms", out, re.MULTILINE)
    assert "errors      none" in out
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_at_a_rate_it_asks_that_often(server: tuple[Process, str, str]) -> None:
    """Forty requests are due in the time; none is left out, however long they take."""
    _, outcome = bench.generate([Load(server[1], 2, 2.0, 10.0)])
    assert len(outcome.latency_ms) + outcome.errors.total() <= 40
    assert len(outcome.latency_ms) > 2
    assert len(outcome.at_s) == len(outcome.latency_ms)


def test_nobody_there_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert actlink("bench", "127.0.0.1:1", "--clients", "2") == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_errors_are_counted_by_their_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "angry.py").write_text(
        "from actlink import Field, Spec\nfrom actlink.errors import PolicyError\n"
        "class Angry:\n"
        "    spec = Spec({'state': Field((2,))}, Field((2,)))\n"
        "    asked = 0\n"
        "    def infer(self, requests):\n"
        "        self.asked += len(requests)\n"
        "        if self.asked > 1:\n"
        "            raise RuntimeError('not today')\n"
        "        import numpy as np\n"
        "        from actlink import ActionChunk\n"
        "        return [ActionChunk(np.zeros((1, 2), np.float32), r.step, r.episode, r.session) for r in requests]\n"
    )
    with serving(tmp_path, f"{tmp_path}/angry.py:Angry") as (_, _, tcp):
        assert actlink("bench", tcp, "--duration", "1") == 1, "nothing was answered"
        assert re.search(r"^errors      policy \d+$", capsys.readouterr().out, re.MULTILINE)


def test_a_size_the_server_fixes_is_refused_before_anything_is_sent(
    server: tuple[Process, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert actlink("bench", server[2], "--image-sizes", "480x640") == 2
    assert "images.top is 6x8 in the spec, got 480x640" in capsys.readouterr().err


def test_a_load_process_that_dies_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    theirs.close()
    with pytest.raises(InternalError, match="a load process died"):
        bench._receive(ours, 5.0)
    ours.close()


def test_a_load_process_that_is_silent_is_noticed() -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with pytest.raises(InternalError, match=r"has not answered for 0\.01 s"):
        bench._receive(ours, 0.01)
    ours.close()
    theirs.close()


def test_the_plot_needs_its_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert actlink("bench", "127.0.0.1:1", "--plot", "x.png") == 2
    assert "pip install 'actlink[plot]'" in capsys.readouterr().err


# What it says.


def test_the_report() -> None:
    timing = {"infer_ms": [1.0, 3.0], "batch_size": [2.0, 2.0]}
    outcome = Outcome([0.5, 1.0], [2.0, 4.0], timing, Counter({"overloaded": 3, "deadline": 1}))
    assert report(outcome, 2.0).splitlines() == [
        "answered    2 requests, 1.0 per second",
        "latency     p50 2.00 ms, p95 4.00 ms, p99 4.00 ms, max 4.00 ms",
        "medians     batch_size 2, infer 1.00 ms",
        "errors      deadline 1, overloaded 3",
    ]


def test_the_report_of_nothing() -> None:
    assert report(Outcome(), 2.0).splitlines() == ["answered    0 requests, 0.0 per second", "errors      none"]


def test_outcomes_add_up() -> None:
    total = Outcome()
    for _ in range(2):
        total.add(Outcome([1.0], [2.0], {"infer_ms": [3.0]}, Counter(link=1)))
    assert (total.at_s, total.latency_ms, total.timing, total.errors) == (
        [1.0] * 2,
        [2.0] * 2,
        {"infer_ms": [3.0] * 2},
        Counter(link=2),
    )


def test_the_load_generator_is_light() -> None:
    """Its processes load the client and nothing of the command line."""
    import subprocess
    import sys

    program = f"import sys, {_load.__name__}; print(*(n for n in ('tyro', 'rich', 'matplotlib', 'psutil') if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
