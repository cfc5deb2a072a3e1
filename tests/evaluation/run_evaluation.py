"""A program that evaluates: for tests that kill it. Prints the table; errors as the command line would."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from actlink.errors import StoppedError
from actlink.evaluation.harness import EvalConfig, evaluate

if __name__ == "__main__":
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(sys.argv[1]).items()}
    try:
        del options["credentials"], options["delay"]  # these tests have no server that asks for any, and none of these has a delay
        print(evaluate(EvalConfig(**{**options, "out": Path(options["out"])})).table)
    except StoppedError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
