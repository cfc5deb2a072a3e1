"""What runs inside LeRobot's own environment: our adapters of its policies and its robots, beside the originals.

Each ``inside_*.py`` is a test file of its own for the Python that has LeRobot; here it is started, and has to pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from venvs import passes_inside

pytestmark = pytest.mark.timeout(1800)

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("inside_*.py")))
def test_inside(python: str, file: str, tmp_path: Path) -> None:
    said = passes_inside(python, tmp_path, HERE / file, options=("-o", "filterwarnings=default"), cwd=HERE)
    assert "skipped" not in said, said[-3000:]
