"""Files that torch itself writes, and what torch reads of ours: ``make_torch_files.py write FOLDER`` and ``... read FOLDER``.

``write`` saves ``value.pt`` and its tensors as numpy has them in ``value.npz``; ``read`` loads ``ours.pt`` with ``weights_only``
and writes what came out to ``ours.npz``.
"""

from __future__ import annotations

import argparse
import collections
import sys
from pathlib import Path

import numpy as np
import torch

DTYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
)
WIDENED = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def value() -> dict[str, object]:
    torch.manual_seed(0)
    base = torch.randn(10, 4)
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))
    network[2].weight.data[0] = 3.0
    every_byte = torch.arange(256, dtype=torch.uint8)
    return {
        **{f"dtype.{name}": torch.arange(0, 100).reshape(10, 10).to(getattr(torch, name)) for name in DTYPES},
        **{f"every.{name}": every_byte.view(getattr(torch, name)) for name in ("float8_e4m3fn", "float8_e5m2")},
        "every.bfloat16": torch.arange(-32768, 32768, dtype=torch.int16).view(torch.bfloat16),
        "turned": base.t(),
        "row": base[3],
        "every other": base[::2, 1::2],
        "whole": base,
        "expanded": torch.ones(1).expand(5, 3),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        **{f"network.{name}": tensor for name, tensor in network.state_dict().items()},
    }


def plain(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype in WIDENED else tensor).numpy()


def write(folder: Path) -> None:
    tensors = value()
    np.savez(folder / "value.npz", **{name: plain(tensor) for name, tensor in tensors.items()})  # type: ignore[arg-type]
    torch.save(tensors, folder / "value.pt")
    network = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    adam.step()
    lightning = {
        "epoch": 3,
        "state_dict": collections.OrderedDict(network.state_dict()),
        "optimizer_states": [adam.state_dict()],
        "hyper_parameters": argparse.Namespace(lr=1e-4, betas=(0.9, 0.999)),
        "callbacks": collections.defaultdict(list, {"best": [0.5]}),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "numpy": np.arange(1000.0),
    }
    torch.save(lightning, folder / "lightning.ckpt")
    torch.save(network.state_dict(), folder / "plain.pt")
    torch.save(network, folder / "whole.pt")
    torch.save(network.state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    np.savez(folder / "network.npz", **{name: tensor.numpy() for name, tensor in network.state_dict().items()})


def read(folder: Path) -> None:
    tensors = torch.load(folder / "ours.pt", weights_only=True)
    torch.load(folder / "ours.pt", weights_only=True, mmap=True)
    assert tensors["tied"].data_ptr() == tensors["f4"].data_ptr()
    np.savez(folder / "ours.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
