"""Pictures of a MuJoCo model without a display. Law: OpenGL is looked for when the first picture is asked for, not before.

On Linux EGL is tried first (a GPU or Mesa's software driver), then OSMesa (software); on macOS and Windows the native library.
``MUJOCO_GL`` (``egl``, ``osmesa``, ``glfw``, ``cgl``) names the only one to try. Shadows and reflections are drawn, as in
gym-aloha's own pictures: policies trained on those see the same scene.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import numpy as np

from actlink.errors import SimulationError
from actlink.types import Array

_CHOICES = {"darwin": ("cgl",), "win32": ("glfw",)}
_LINUX = ("egl", "osmesa")
_HINT = (
    "no OpenGL library could be used to draw the scene; on Debian or Ubuntu install one with: "
    "apt-get install libegl1 libgl1 (EGL), or: apt-get install libosmesa6 (software)"
)


class Painter:
    """An off-screen OpenGL context for one model. Use it from one thread, and ``close`` it."""

    def __init__(self, model: Any) -> None:
        import mujoco

        self._mujoco, self._model = mujoco, model
        self._gl = _open_gl(int(model.vis.global_.offwidth), int(model.vis.global_.offheight))
        self._gl.make_current()
        self._scene = mujoco.MjvScene(model, 1000)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def paint(self, data: Any, camera: str, height: int, width: int) -> Array:
        """The scene of ``data`` (``mujoco.MjData``) as the model's ``camera`` sees it, uint8 (height, width, 3) RGB."""
        mujoco = self._mujoco
        self._gl.make_current()
        if width > self._context.offWidth or height > self._context.offHeight:
            mujoco.mjr_resizeOffscreen(max(width, self._context.offWidth), max(height, self._context.offHeight), self._context)
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, mujoco.MjvOption(), None, view, everything, self._scene)
        frame = mujoco.MjrRect(0, 0, width, height)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_render(frame, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, frame, self._context)
        return pixels[::-1].copy()  # OpenGL counts rows from the bottom

    def close(self) -> None:
        """Free the context; the painter is not used afterwards."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _open_gl(width: int, height: int) -> Any:
    """A context of the first library that works; ``SimulationError`` says what was tried and what to install."""
    named = os.environ.get("MUJOCO_GL", "").lower()
    choices = (named,) if named in ("egl", "osmesa", "glfw", "cgl") else _CHOICES.get(sys.platform, _LINUX)
    failures = []
    for choice in choices:
        try:
            return _context_of(choice, width, height)
        except Exception as error:  # absent libraries show as ImportError, AttributeError, OSError, GLError, ...
            failures.append(f"{choice}: {type(error).__name__}: {error}")
            _forget_pyopengl()
    raise SimulationError(f"{_HINT}. Tried {'; '.join(failures)}")


def _context_of(choice: str, width: int, height: int) -> Any:
    context = importlib.import_module(f"mujoco.{choice}").GLContext(width, height)
    context.make_current()
    return context


def _forget_pyopengl() -> None:
    """PyOpenGL binds itself to one platform when it is imported; the next one needs a fresh import."""
    for name in [name for name in sys.modules if name.split(".")[0] == "OpenGL" or name in ("mujoco.egl", "mujoco.osmesa")]:
        del sys.modules[name]
    for name in [name for name in sys.modules if name.startswith("mujoco.egl.")]:
        del sys.modules[name]
    os.environ.pop("PYOPENGL_PLATFORM", None)
