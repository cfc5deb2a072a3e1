"""``python -m actlink`` is ``actlink``."""

from __future__ import annotations

import sys

from actlink.cli import main

if __name__ == "__main__":
    sys.exit(main())
