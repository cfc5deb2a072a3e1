"""Writes ``tests/data/pickle/goldens.jsonl.xz``: pickles as many Pythons and numpys write them, with what each reads back itself.

    python scripts/make_golden_pickles.py [--torch-python PATH]

Needs ``uv`` and the interpreters named in ORIGINS; every origin runs ``tests/codecs/golden_pickle_values.py`` in an environment
made for it and thrown away. ``--torch-python`` names an interpreter that has torch. Equal pickles of several origins are stored
once, with all of their names.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
EMITTER = ROOT / "tests" / "codecs" / "golden_pickle_values.py"
TARGET = ROOT / "tests" / "data" / "pickle" / "goldens.jsonl.xz"
ORIGINS = (
    ("3.6", "1.19.5"),
    ("3.7", "1.21.6"),
    ("3.8", "1.17.5"),
    ("3.8", "1.24.4"),
    ("3.9", "1.23.5"),
    ("3.9", "2.0.2"),
    ("3.10", "1.26.0"),
    ("3.10", "2.2.6"),
    ("3.11", "1.25.2"),
    ("3.11", "2.4.6"),
    ("3.12", "1.26.4"),
    ("3.12", "2.5.5"),
    ("3.13", "2.1.3"),
    ("3.13", "2.5.5"),
)


def emitted(command: list[str], name: str) -> list[dict[str, str | int]]:
    """The goldens of one origin."""
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"{name}: {output.count(chr(10))} pickles")
    return [json.loads(line) for line in output.splitlines()]


def found(python: str) -> str:
    """The interpreter of that version: pyenv's, or the one on the path."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in sorted(root.glob(f"versions/{python}.*/bin/python")):
        return str(path)
    path = shutil.which(f"python{python}")
    if path is None:
        raise SystemExit(f"Python {python} is needed for the goldens and was not found: install it (pyenv install {python})")
    return path


def emitted_by(python: str, numpy: str) -> list[dict[str, str | int]]:
    """The goldens of an environment made for the purpose."""
    with tempfile.TemporaryDirectory() as folder:
        interpreter = str(Path(folder) / "bin" / "python")
        subprocess.run(["uv", "venv", "--quiet", "--python", found(python), folder], check=True, stderr=subprocess.DEVNULL)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", interpreter, f"numpy=={numpy}"], check=True)
        return emitted([interpreter, str(EMITTER)], f"Python {python}, numpy {numpy}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="an interpreter with torch; without it the torch pickles are left out")
    options = parser.parse_args()
    merged: dict[tuple[str, ...], list[str]] = {}
    for python, numpy in ORIGINS:
        for line in emitted_by(python, numpy):
            name = f"Python {python}, numpy {numpy}"
            merged.setdefault(tuple(str(line[key]) for key in ("case", "protocol", "digest", "data")), []).append(name)
    if options.torch_python:
        words = "import sys, torch; print('Python %d.%d, torch %s' % (*sys.version_info[:2], torch.__version__.split('+')[0]))"
        name = subprocess.run([options.torch_python, "-c", words], check=True, capture_output=True, text=True).stdout.strip()
        for line in emitted([options.torch_python, str(EMITTER), "torch"], name):
            if "torch" in str(line["case"]) or "lerobot" in str(line["case"]):
                merged.setdefault(tuple(str(line[key]) for key in ("case", "protocol", "digest", "data")), []).append(name)
    lines = [
        json.dumps({"case": case, "protocol": int(protocol), "digest": digest, "origins": origins, "data": data})
        for (case, protocol, digest, data), origins in merged.items()
    ]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9))
    total = sum(map(len, merged.values()))
    print(f"{total} pickles, {len(lines)} different ones, {TARGET.stat().st_size} bytes in {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
