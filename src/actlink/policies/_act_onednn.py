"""Products and convolutions of a network that is only run: through oneDNN where it can. Law: the same numbers, or not at all.

torch hands a product of matrices to another library, which on some processors takes longer, and reorders the weights in every
call; and for small pictures it does without oneDNN. Its compiler calls oneDNN by operators of its own, with weights reordered once
and the rectifier inside (``torch/_inductor/fx_passes/mkldnn_fusion.py``); they are called here without compiling anything. They are
no public interface: at the start they are held against torch's ordinary ones, and left alone where they are not there, differ or
fail. ``benchmarks/act.py`` measures what that is worth.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

_SIZES = 4
_TOKENS = 256
"""Rows that reordered weights are laid out for; others run too."""


class Operations:
    """Which way this network's operations go; one for all of its layers."""

    def __init__(self, device: Any, dtype: Any) -> None:
        self.fused = device.type == "cpu" and dtype == torch.float32 and _works()


class Linear:
    """``x @ weight.T + bias``."""

    def __init__(self, weight: Any, bias: Any, operations: Operations) -> None:
        self.weight, self.bias = weight, bias
        self._operations = operations
        self._packed = _reorder(weight) if operations.fused else None

    def __call__(self, x: Any, *, rectified: bool = False) -> Any:
        """``x`` (..., n) -> (..., m); ``rectified``: nothing below 0."""
        if self._packed is None or not self._operations.fused:
            found = F.linear(x, self.weight, self.bias)
            return found.relu() if rectified else found
        kind = "relu" if rectified else "none"
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, kind, [], "")


class Convolution:
    """A convolution of pictures in channels-last order."""

    def __init__(self, weight: Any, bias: Any, operations: Operations, *, stride: int = 1, padding: int = 0) -> None:
        self._weight, self._bias = weight.contiguous(memory_format=torch.channels_last), bias
        self._stride, self._padding = [stride, stride], [padding, padding]
        self._operations = operations
        self._packed: dict[tuple[int, ...], Any] = {}

    def __call__(self, x: Any, *, rectified: bool = False) -> Any:
        """``x`` (batch, channels, height, width)."""
        if not self._operations.fused:
            found = F.conv2d(x, self._weight, self._bias, self._stride, self._padding)
            return found.relu_() if rectified else found
        kind = "relu" if rectified else "none"
        size = tuple(x.shape[2:])
        if size not in self._packed:
            self._pack(x, size)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._packed[size], self._bias, self._padding, self._stride, [1, 1], 1, kind, [], ""
        )

    def _pack(self, x: Any, size: tuple[int, ...]) -> None:
        """The weights as oneDNN wants them for pictures of this size; kept for the few sizes that cameras have."""
        if len(self._packed) >= _SIZES:
            self._packed.clear()
        arguments = (self._padding, self._stride, [1, 1], 1, list(x.shape))
        self._packed[size] = torch.ops.mkldnn._reorder_convolution_weight(self._weight, *arguments)


def _reorder(weight: Any) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS)


def _works() -> bool:
    """Whether the operators are there and give what the ordinary ones give."""
    if not torch.backends.mkldnn.is_available():
        return False
    operations = Operations.__new__(Operations)
    operations.fused = True
    source = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            x, weight, bias = (torch.randn(*shape, generator=source) for shape in ((1, 5, 64), (96, 64), (96,)))
            linear = Linear(weight, bias, operations)(x, rectified=True)
            picture, kernel = (torch.randn(*shape, generator=source) for shape in ((2, 8, 9, 11), (96, 8, 3, 3)))
            picture = picture.contiguous(memory_format=torch.channels_last)
            convolution = Convolution(kernel, bias, operations, stride=2, padding=1)(picture)
            same = torch.allclose(linear, F.linear(x, weight, bias).relu(), atol=1e-4)
            return bool(same and torch.allclose(convolution, F.conv2d(picture, kernel, bias, 2, 1), atol=1e-4))
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):  # another torch: without them, or with others
        return False
