"""The README's policy of one's own: a torch module, opened by file and class, passes the examiner."""

from __future__ import annotations

from pathlib import Path

import pytest

from actlink.errors import ConfigError
from actlink.policies._open import open_policy
from actlink.testing.policies import check_policy

FILE = Path(__file__).parents[2] / "examples" / "my_policy.py"


def test_it_conforms() -> None:
    pytest.importorskip("torch", reason="torch not installed: pip install 'actlink[train]'")
    check_policy(open_policy(f"{FILE}:MyPolicy"))


def test_its_weights_are_an_option(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch not installed: pip install 'actlink[train]'")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors not installed: pip install 'actlink[train]'")
    made = open_policy(f"{FILE}:MyPolicy")
    weights = {name: value + 1 for name, value in made._inner.net.state_dict().items()}  # type: ignore[attr-defined]
    safetensors.save_file(weights, tmp_path / "my.safetensors")
    loaded = open_policy(f"{FILE}:MyPolicy?weights={tmp_path / 'my.safetensors'}")
    assert all(torch.equal(value, weights[name]) for name, value in loaded._inner.net.state_dict().items())  # type: ignore[attr-defined]


def test_a_wrong_option_shows_how_it_is_called() -> None:
    pytest.importorskip("torch", reason="torch not installed: pip install 'actlink[train]'")
    with pytest.raises(ConfigError, match="unexpected keyword argument 'speed'; it is called as MyPolicy"):
        open_policy(f"{FILE}:MyPolicy?speed=1")
