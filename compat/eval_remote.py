"""IL-Studio's evaluation, of a policy server or of a local model: ``python eval_remote.py --model_name_or_path localhost:5000``.

The actlink way: ``actlink eval --policy ilstudio+tcp://localhost:5000 --env aloha_transfer_cube --episodes 4 --workers 2``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from benchmark.base import MetaObs
from opening import fail, for_act, prepare
from policy_client_example import PolicyClient

from actlink.errors import ActlinkError, ConfigError, StoppedError
from actlink.evaluation.harness import EvalConfig, evaluate
from actlink.evaluation.results import Results

CONFIGS = Path(__file__).parent / "configs" / "env"
TASKS = {"sim_transfer_cube_scripted": "aloha_transfer_cube", "sim_insertion_scripted": "aloha_insertion"}
"""Task as IL-Studio calls it -> environment; any other is taken for the name of an environment."""


def is_server_address(text: str) -> bool:
    """Whether ``text`` is ``host:port`` rather than a path."""
    return ":" in text and not os.path.exists(text) and re.fullmatch(r".+:\d+", text) is not None


def parse_server_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``; ``ValueError`` for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"expected host:port, got {text!r}")
    return host.strip("[]"), int(port)


class RemotePolicyClient:
    """A policy server as a policy: asks for a chunk when the last one is used up, hands out its actions one by one."""

    def __init__(self, host: str, port: int, chunk_size: int | None = 64, ctrl_space: str = "ee", ctrl_type: str = "delta") -> None:
        """Connects at once; ``ConnectionError`` if it cannot."""
        self.chunk_size = chunk_size if chunk_size is not None and chunk_size > 0 else None
        self.ctrl_space, self.ctrl_type = ctrl_space, ctrl_type
        self.action_queue: deque[Any] = deque(maxlen=self.chunk_size)
        self._client = PolicyClient(host, port)
        self._client.connect()

    def select_action(self, mobs: MetaObs, t: int | None = None, return_all: bool = False, *, timestep: int | None = None) -> Any:
        """The action for step ``t``: a ``MetaAction``, or an array of them for a batch. ``RuntimeError`` if the server has none."""
        step = timestep if t is None else t
        if step is None:
            raise TypeError("select_action: expected the step, as t or timestep")
        if self.is_action_queue_empty() or (self.chunk_size is not None and step % self.chunk_size == 0):
            batch = mobs.state.shape[0] if mobs.state is not None and mobs.state.ndim > 1 else 1
            mobs.timestep = np.full((batch, 1), step, np.int64)
            actions = self._send_meta_obs(mobs)
            if not actions:
                raise RuntimeError("Server returned empty action list")
            self.action_queue.clear()
            self.action_queue.extend(actions[: self.chunk_size])
        if return_all:
            everything = list(self.action_queue)
            self.action_queue.clear()
            return everything
        return self.action_queue.popleft()

    def is_action_queue_empty(self) -> bool:
        return not self.action_queue

    def reset(self) -> None:
        """Forget the actions of the last episode."""
        self.action_queue.clear()

    def disconnect(self) -> None:
        self._client.disconnect()

    def _send_meta_obs(self, mobs: MetaObs) -> list[Any]:
        """Ask; a connection that is lost is made again, once."""
        try:
            return self._client.send_meta_obs(mobs)
        except ConnectionError:
            self._client.connect()
            return self._client.send_meta_obs(mobs)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Evaluate a policy in a simulator. --env.<key> VALUE changes a key of its configuration."
    )
    parser.add_argument("-m", "--model_name_or_path", default="localhost:5000", help="host:port of a server, or a local model")
    parser.add_argument("-o", "--output_dir", default="results/dp_aloha_transer-official-ema-freq50-dnoise10-aug")
    parser.add_argument("-e", "--env", default="aloha", help="a file of configs/env")
    parser.add_argument("--device", help="where a local model runs: cpu (default), cuda")
    parser.add_argument("--dataset_id", default="", help="which of a checkpoint's datasets; the first if empty")
    parser.add_argument("--fps", type=float, default=50, help="control steps per second; that of the environment counts")
    parser.add_argument("--num_rollout", type=int, default=4, help="episodes")
    parser.add_argument("--num_envs", type=int, default=2, help="environments side by side, each in a process of its own")
    parser.add_argument("--chunk_size", type=int, default=64, help="actions of a chunk that run before the next; -1 = all")
    parser.add_argument("--use_spawn", action="store_true", help="processes are always started so")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more")
    parser.add_argument("--config", help="YAML file with 'server' and 'evaluation'; options on the command line win")
    return parser


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options, and the environment's configuration with the changes made to it."""
    parser = options()
    file = parser.parse_known_args(arguments)[0].config
    if file is not None:
        parser.set_defaults(**from_file(Path(file), {action.dest for action in parser._actions}))
    given, rest = parser.parse_known_args(arguments)
    return given, environment(given.env, changes(rest))


def from_file(path: Path, known: set[str]) -> dict[str, Any]:
    """What an ``eval_config.yaml`` says, as options."""
    plain = _yaml(path)
    server, found = plain.pop("server", None) or {}, plain.pop("evaluation", None) or {}
    if plain or not isinstance(server, dict) or not isinstance(found, dict):
        raise ConfigError(f"{path}: expected 'server' and 'evaluation', each with its keys; got {', '.join(plain) or 'others'}")
    unknown = [*(set(found) - known), *(set(server) - {"host", "port"})]
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}")
    if server:
        found["model_name_or_path"] = f"{server.get('host', 'localhost')}:{server.get('port', 5000)}"
    return found


def environment(name: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration called ``name``."""
    path = CONFIGS / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        raise ConfigError(f"no environment {name!r}; there are: {', '.join(sorted(each.stem for each in CONFIGS.glob('*.yaml')))}")
    plain = _yaml(path)
    unknown = [key for key in changed if key not in plain]
    if unknown:
        raise ConfigError(f"--env.{unknown[0]}: {path.name} has no such key; it has: {', '.join(plain)}")
    return {**plain, **changed}


def changes(words: Sequence[str]) -> dict[str, Any]:
    """``--env.<key> value`` and ``--env.<key>=value``; ``ConfigError`` for any other word."""
    found: dict[str, Any] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        key, equals, value = word.removeprefix("--env.").partition("=")
        if not word.startswith("--env.") or not key or (not equals and not left):
            raise ConfigError(f"unknown option {word!r}; see --help")
        found[key] = yaml.safe_load(value if equals else left.pop(0))
    return found


def _yaml(path: Path) -> dict[str, Any]:
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: expected keys and values")
    return plain


def reach(address: str) -> None:
    """``ConnectionError`` if nothing answers at ``host:port``: before the first episode that is not waited for."""
    client = PolicyClient(*parse_server_address(address))
    client.connect()
    client.disconnect()


def run(given: argparse.Namespace, env: Mapping[str, Any]) -> Path:
    """Evaluate, and write what IL-Studio writes; the path of the JSON file."""
    policy = given.model_name_or_path
    if is_server_address(policy):
        host, port = parse_server_address(policy)
        policy = f"ilstudio+tcp://{f'[{host}]' if ':' in host else host}:{port}"
    dataset = for_act(policy, {"dataset_id": given.dataset_id}).get("dataset_id")
    place = Path(given.output_dir) / str(env["type"])
    place.mkdir(parents=True, exist_ok=True)
    width, height = env["image_size"]
    with tempfile.TemporaryDirectory(prefix=".evaluation-", dir=place) as scratch:
        results = evaluate(
            EvalConfig(
                policy=policy,
                env=TASKS.get(env["task"], env["task"]),
                env_options=(f"camera_width={width}", f"camera_height={height}", f"max_steps={env['max_timesteps']}"),
                episodes=given.num_rollout,
                workers=min(given.num_envs, given.num_rollout),
                out=Path(scratch) / "run",
                execution_horizon=given.chunk_size if given.chunk_size > 0 else None,
                device=given.device or "cpu",
                policy_options=() if dataset is None else (f"dataset_id={dataset}",),
                video_every=1,
            )
        )
        path = place / f"{env['task']}.json"
        path.write_text(json.dumps(summary(results), indent=4) + "\n", encoding="utf-8")
        try:
            videos(results, place / "video", str(env["task"]), given.num_envs)
        except (OSError, subprocess.CalledProcessError) as error:  # a full disk costs the videos, not the figures
            print(f"⚠ no video: {error}", file=sys.stderr)
    return path


def summary(results: Results) -> dict[str, Any]:
    """The figures under IL-Studio's names; where nothing succeeded the mean of nothing is null."""
    successes = [episode.length for episode in results.episodes if episode.success]
    return {
        "total_success": len(successes),
        "total": len(results.episodes),
        "horizon": [episode.length for episode in results.episodes],
        "horizon_success": sum(successes) / len(successes) if successes else None,
        "success_rate": len(successes) / len(results.episodes),
    }


def videos(results: Results, place: Path, task: str, num_envs: int) -> None:
    """``<task>_roll<first>_<last>.mp4``: the episodes of as many as run side by side, one after the other."""
    assert results.out is not None
    for first in range(0, len(results.episodes), num_envs):
        batch = results.episodes[first : first + num_envs]
        files = [(results.out / episode.video).resolve() for episode in batch if episode.video is not None]
        if files:
            place.mkdir(exist_ok=True)
            join(files, place / f"{task}_roll{first}_{first + len(batch) - 1}.mp4")


def join(files: Sequence[Path], target: Path) -> None:
    """Videos of one make, one after the other, in one file."""
    import imageio_ffmpeg

    listing = files[0].with_suffix(".txt")
    listing.write_text("".join(f"file '{file}'\n" for file in files), encoding="utf-8")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "concat", "-safe", "0", "-i", str(listing)]
    subprocess.run([*command, "-c", "copy", str(target)], check=True, stdin=subprocess.DEVNULL)


def main(arguments: Sequence[str]) -> int:
    prepare()
    try:
        given, env = parse(arguments)
        if given.verbose:
            logging.getLogger("actlink").setLevel(logging.DEBUG)
        if is_server_address(given.model_name_or_path):
            reach(given.model_name_or_path)
        path = run(given, env)
    except StoppedError as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}; nothing is kept of this evaluation", file=sys.stderr)
        return error.exit_code
    except (ActlinkError, ConnectionError, ValueError) as error:
        return fail(error)
    found = json.loads(path.read_text(encoding="utf-8"))
    print(f"success rate {found['success_rate']:.2f} ({found['total_success']} of {found['total']} episodes): {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
