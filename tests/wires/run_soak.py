"""The processes of a soak: ``serve LEAK_BYTES MIXING``, or ``talk FIRST REQUESTS URL...``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from soak_world import Share, serve, talk

if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "serve":
        serve(int(rest[0]), rest[1] == "1")
    else:
        talk(Share(rest[2:], int(rest[0]), int(rest[1])))
