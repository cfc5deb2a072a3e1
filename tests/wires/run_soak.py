"""The processes of a soak: ``serve LEAK_BYTES``, or ``talk FIRST REQUESTS URL...``; and by hand: ``soak REQUESTS [LEAK_BYTES]``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from soak_world import Share, serve, soak, talk

if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "serve":
        serve(int(rest[0]))
    elif what == "talk":
        talk(Share(rest[2:], int(rest[0]), int(rest[1])))
    else:
        print(soak(*map(int, rest[:1]), leak_bytes=int(rest[1]) if len(rest) > 1 else 0))
