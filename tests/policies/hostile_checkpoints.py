"""Checkpoints made to harm whoever opens them, one file or directory each, and a child that opens them under watch.

``hostile_checkpoints.py NAME FOLDER`` makes the checkpoint ``NAME`` in ``FOLDER``, opens it as its family would, and prints JSON:
what became of it, every audit event that names ``canary`` or runs a program, and how far the peak of memory rose (bytes).
``hostile_checkpoints.py control FOLDER`` opens the first with Python's own unpickler under the same hook: the watch sees what
happens.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "codecs")]

from pickle_bombs import BOMBS  # noqa: E402
from pickle_gadgets import GADGETS, SYSTEM  # noqa: E402
from pickle_world import run, stream, text  # noqa: E402
from rl_world import box, discrete, ppo_tensors, sb3_zip  # noqa: E402
from torch_world import mapping, stored, tensor_of, torch_file  # noqa: E402

from actlink.codecs import torch_files  # noqa: E402
from actlink.errors import ActlinkError  # noqa: E402
from actlink.policies import sb3, vibe  # noqa: E402
from actlink.types import Runtime  # noqa: E402

SIX = bytes(24)
OBSERVED = box([-1] * 4, [1] * 4)

Made = tuple[Callable[[Path], Any], Path]
"""How it is opened, and what."""


def gadgets_in_a_state_dict(folder: Path) -> Made:
    return torch_files.state_dict, torch_file(folder / "policy_best.ckpt", mapping(w=tensor_of(stored()), x=SYSTEM), {"0": SIX})


def gadget_as_the_whole_value(folder: Path) -> Made:
    return torch_files.state_dict, torch_file(folder / "policy_best.ckpt", SYSTEM)


def every_gadget_in_a_checkpoint(folder: Path) -> Made:
    """Each gadget of the decoder's own tests as ``data.pkl``, in turn."""

    def opened(path: Path) -> None:
        for data in GADGETS.values():
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a/data.pkl", data)
            refused_or_inert(torch_files.load, path)

    return opened, folder / "policy_best.ckpt"


def every_gadget_as_statistics(folder: Path) -> Made:
    def opened(path: Path) -> None:
        for data in GADGETS.values():
            path.write_bytes(data)
            refused_or_inert(torch_files.load_pickle, path)

    return opened, folder / "dataset_stats.pkl"


def gadget_as_statistics(folder: Path) -> Made:
    path = folder / "dataset_stats.pkl"
    path.write_bytes(stream(mapping(qpos_mean=run("builtins", "eval", text("open('canary')")))))
    return torch_files.load_pickle, path


def _sb3(path: Path) -> Any:
    return sb3.load(str(path), sb3.Config(), Runtime())


def gadget_as_a_space(folder: Path) -> Made:
    return _sb3, sb3_zip(folder / "ppo.zip", stream(SYSTEM), discrete(2), ppo_tensors(4, 8, 2)[0])


def gadget_as_a_policy_pth(folder: Path) -> Made:
    inner = torch_file(folder / "inner.pth", mapping(w=SYSTEM)).read_bytes()
    return _sb3, sb3_zip(folder / "ppo.zip", OBSERVED, discrete(2), inner)


def gadget_as_vecnormalize(folder: Path) -> Made:
    (folder / "vecnormalize.pkl").write_bytes(stream(SYSTEM))
    return _sb3, sb3_zip(folder / "ppo.zip", OBSERVED, discrete(2), ppo_tensors(4, 8, 2)[0])


def deflated_bomb(folder: Path) -> Made:
    """400 MB of zeros in 400 KB, named as a storage."""
    value = mapping(w=tensor_of(stored(count=10**8), (10**8,), (1,)))
    return torch_files.state_dict, _deflated(folder / "policy_best.ckpt", value, 4 * 10**8)


def deflated_bomb_with_a_lying_size(folder: Path) -> Made:
    value = mapping(w=tensor_of(stored(count=16), (16,), (1,)))
    return torch_files.state_dict, _deflated(folder / "policy_best.ckpt", value, 4 * 10**8, said=64)


def _deflated(path: Path, value: bytes, size: int, said: int | None = None) -> Path:
    """A checkpoint whose storage ``0`` unpacks to ``size`` zeros; its headers say ``said``."""
    worker = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(worker.compress(bytes(10**6)) for _ in range(size // 10**6)) + worker.flush()
    pickled = stream(value)
    parts, directory, at = [], [], 0
    for name, data, method, length in (
        (b"a/data.pkl", pickled, 0, len(pickled)),
        (b"a/data/0", packed, 8, size if said is None else said),
    ):
        fields = struct.pack("<5H3L2H", 20, 0, method, 0, 0, 0, len(data), length, len(name), 0)
        parts.append(b"PK\x03\x04" + fields + name + data)
        directory.append(b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<3H2L", 0, 0, 0, 0, at) + name)
        at += len(parts[-1])
    listed = b"".join(directory)
    end = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 2, 2, len(listed), at, 0)
    path.write_bytes(b"".join(parts) + listed + end)
    return path


def lying_shape(folder: Path) -> Made:
    value = mapping(w=tensor_of(stored(), (2**20, 2**20), (2**20, 1)))
    return torch_files.state_dict, torch_file(folder / "policy_best.ckpt", value, {"0": SIX})


def shape_repeated_without_end(folder: Path) -> Made:
    value = mapping(w=tensor_of(stored(), (2**30, 2**30), (0, 0)))
    return torch_files.state_dict, torch_file(folder / "policy_best.ckpt", value, {"0": SIX})


def lying_count(folder: Path) -> Made:
    value = mapping(w=tensor_of(stored(count=2**30), (2**30,), (1,)))
    return torch_files.state_dict, torch_file(folder / "policy_best.ckpt", value, {"0": SIX})


def storages_that_overlap(folder: Path) -> Made:
    """Two entries of the directory point to the same bytes of the file."""
    value = mapping(a=tensor_of(stored("0")), b=tensor_of(stored("1")))
    path = torch_file(folder / "policy_best.ckpt", value, {"0": SIX, "1": SIX})
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    return torch_files.state_dict, path


def path_that_climbs(folder: Path) -> Made:
    path = torch_file(folder / "policy_best.ckpt", mapping(w=tensor_of(stored())), {"0": SIX})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/../../canary", b"x")
    return torch_files.state_dict, path


def storage_key_that_climbs(folder: Path) -> Made:
    (folder / "canary").write_bytes(SIX)
    value = mapping(w=tensor_of(stored("../../canary")))
    return torch_files.state_dict, torch_file(folder / "policy_best.ckpt", value, {"0": SIX})


def path_that_climbs_in_an_sb3_zip(folder: Path) -> Made:
    path = sb3_zip(folder / "ppo.zip", OBSERVED, discrete(2), ppo_tensors(4, 8, 2)[0])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("/tmp/canary", b"x")
    return _sb3, path


def pickle_bombs_in_checkpoints(folder: Path) -> Made:
    """Each bomb of the decoder's own tests as ``data.pkl``, in turn."""

    def opened(path: Path) -> None:
        for make in BOMBS.values():
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a/data.pkl", make(2000))
            refused_or_inert(torch_files.load, path)

    return opened, folder / "policy_best.ckpt"


def lying_npy_leaf(folder: Path) -> Made:
    path = folder / "state.eqx"
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**18)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(SIX)
    return (lambda place: vibe.load(str(place), vibe.Config(), Runtime())), path


def object_npy_leaf(folder: Path) -> Made:
    path = folder / "state.eqx"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        file.write(stream(SYSTEM))
    return (lambda place: vibe.load(str(place), vibe.Config(), Runtime())), path


def json_bomb(folder: Path) -> Made:
    path = folder / "ppo.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "[" * 200_000)
        archive.writestr("policy.pth", b"")
    return _sb3, path


CHECKPOINTS: dict[str, Callable[[Path], Made]] = {
    make.__name__: make
    for make in (
        gadgets_in_a_state_dict,
        gadget_as_the_whole_value,
        every_gadget_in_a_checkpoint,
        every_gadget_as_statistics,
        gadget_as_statistics,
        gadget_as_a_space,
        gadget_as_a_policy_pth,
        gadget_as_vecnormalize,
        deflated_bomb,
        deflated_bomb_with_a_lying_size,
        lying_shape,
        shape_repeated_without_end,
        lying_count,
        storages_that_overlap,
        path_that_climbs,
        storage_key_that_climbs,
        path_that_climbs_in_an_sb3_zip,
        pickle_bombs_in_checkpoints,
        lying_npy_leaf,
        object_npy_leaf,
        json_bomb,
    )
}
INERT = {"gadgets_in_a_state_dict", "gadget_as_statistics", "every_gadget_in_a_checkpoint", "every_gadget_as_statistics"} | {
    "pickle_bombs_in_checkpoints"
}
"""Those that are read, as plain data, or of which some are; all others are refused."""

seen: list[str] = []
watching = False
RUNS = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "exec",
    "compile",
    "pickle.find_class",
    "socket.connect",
}


def hook(event: str, args: tuple[Any, ...]) -> None:
    if watching and (event in RUNS or (event != "open" and "canary" in repr(args)) or _opened_to_write(event, args)):
        seen.append(event)
        if event == "os.system":
            raise PermissionError("not in here")


def _opened_to_write(event: str, args: tuple[Any, ...]) -> bool:
    return event == "open" and "canary" in repr(args[0])


def refused_or_inert(read: Callable[[Path], Any], path: Path) -> str:
    """What ``read`` made of it, watched; any error but ours ends the child."""
    global watching
    watching = True
    try:
        value = read(path)
    except ActlinkError as error:
        return f"refused: {error}"
    finally:
        watching = False
    return f"value: {value!r}"


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    os.chdir(folder)
    sys.addaudithook(hook)
    if name == "control":
        (folder / "x.pkl").write_bytes(stream(SYSTEM))
        try:
            refused_or_inert(lambda path: pickle.loads(path.read_bytes()), folder / "x.pkl")
        except PermissionError:
            print(json.dumps({"events": seen}))
        return
    opened, path = CHECKPOINTS[name](folder)
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    outcome = opened(path) if "every" in name or "bombs_in" in name else refused_or_inert(opened, path)
    peak = resident("VmHWM") - before
    print(json.dumps({"outcome": str(outcome)[:300], "events": seen, "peak": peak, "left": sorted(os.listdir(folder.parent))}))


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(field)


if __name__ == "__main__":
    main()
