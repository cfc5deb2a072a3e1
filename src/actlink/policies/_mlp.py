"""Multilayer perceptrons in numpy, for policies that a framework would slow down. Law: float32, rows in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from actlink.errors import ConfigError
from actlink.types import Array

Activation = Callable[[Array], Array]


def _relu(x: Array) -> Array:
    return np.maximum(x, np.float32(0))


def _tanh(x: Array) -> Array:
    return np.tanh(x)


def _sigmoid(x: Array) -> Array:
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))  # does not overflow


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, np.float32(0))))


def _leaky_relu(x: Array) -> Array:
    return np.where(x > 0, x, np.float32(0.01) * x)


ACTIVATIONS: dict[str, Activation] = {
    "tanh": _tanh,
    "relu": _relu,
    "elu": _elu,
    "leakyrelu": _leaky_relu,
    "silu": _silu,
    "sigmoid": _sigmoid,
}
"""By the lower-case name of torch's class, with its default settings."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """Linear layers with an activation between them, and none behind the last."""

    layers: tuple[tuple[Array, Array], ...]
    """``(weight (inputs, outputs), bias (outputs,))`` of each, float32 C-contiguous."""
    activation: Activation

    def __call__(self, rows: Array) -> Array:
        """float32 ``(batch, outputs)`` of ``rows`` float32 ``(batch, inputs)``."""
        for weight, bias in self.layers[:-1]:
            rows = self.activation(rows @ weight + bias)
        weight, bias = self.layers[-1]
        result: Array = rows @ weight + bias
        return result

    @property
    def inputs(self) -> int:
        return int(self.layers[0][0].shape[0])

    @property
    def outputs(self) -> int:
        return int(self.layers[-1][0].shape[1])

    def __str__(self) -> str:
        """Its sizes: ``4-64-64-2``."""
        return "-".join(map(str, (self.inputs, *(weight.shape[1] for weight, _ in self.layers))))


def mlp(pairs: Sequence[tuple[Array, Array]], activation: str, where: str) -> Mlp:
    """The network of ``(weight (outputs, inputs), bias (outputs,))`` pairs, as torch and Equinox keep them.

    ``ConfigError`` where a layer does not fit the one before it, holds NaN or infinity, or the activation is not known.
    """
    layers: list[tuple[Array, Array]] = []
    for index, (weight, bias) in enumerate(pairs):
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or (layers and weight.shape[1] != layers[-1][1].shape[0]):
            before = f" behind {layers[-1][1].shape[0]} outputs" if layers else ""
            raise ConfigError(
                f"{where}: layer {index}: expected weight (outputs, inputs) and bias (outputs,){before}, "
                f"got {weight.shape} and {bias.shape}"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ConfigError(f"{where}: layer {index} holds NaN or infinity: the training diverged, or the file is damaged")
        layers.append((np.ascontiguousarray(weight.T, np.float32), np.ascontiguousarray(bias, np.float32)))
    if not layers:
        raise ConfigError(f"{where}: no layers")
    if activation not in ACTIVATIONS:
        raise ConfigError(f"{where}: activation {activation!r} is not known here; known are {', '.join(ACTIVATIONS)}")
    return Mlp(tuple(layers), ACTIVATIONS[activation])
