"""A runtime in torch's words, with torch: what is there is used, what is not is said, and full memory is full memory."""

from __future__ import annotations

import pytest
import torch

from actlink.errors import ConfigError
from actlink.policies import _torch
from actlink.types import Runtime


def test_the_cpu_is_always_there() -> None:
    assert _torch.device(Runtime()) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cpu:0", "cuda:x", "cuda:-1", "mps:0", ""])
def test_what_is_no_device(name: str) -> None:
    with pytest.raises(ConfigError, match="expected cpu, cuda, cuda:<index> or mps"):
        _torch.device(Runtime(name))


def test_a_device_that_is_not_there_is_answered_with_those_that_are() -> None:
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ConfigError, match=rf"device '{absent}' is not there: torch \S+ sees cpu"):
        _torch.device(Runtime(absent))


@pytest.mark.parametrize(
    ("asked", "default", "found"), [(None, "float32", "float32"), (None, "bfloat16", "bfloat16"), ("float16", "float32", "float16")]
)
def test_dtypes(asked: str | None, default: str, found: str) -> None:
    assert _torch.dtype(Runtime(dtype=asked), default) is getattr(torch, found)


def test_a_dtype_that_is_none() -> None:
    with pytest.raises(ConfigError, match="dtype 'int8': expected float32, float16, bfloat16"):
        _torch.dtype(Runtime(dtype="int8"))


def test_threads_are_torchs_from_then_on() -> None:
    before = torch.get_num_threads()
    try:
        assert _torch.threads(Runtime(threads=2)) == torch.get_num_threads() == 2
        assert _torch.threads(Runtime(threads=2, deterministic=True)) == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_what_torch_raises_when_memory_is_full_is_recognised() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert _torch.is_out_of_memory(found.value)
    assert _torch.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert "device 'cuda' is out of memory during loading x" in str(_torch.out_of_memory(found.value, "cuda", "loading x"))
