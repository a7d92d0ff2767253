"""Running the command line in a test: in this process, or through a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fmtc
from click.testing import CliRunner, Result
from fmtc.cli import cli

SHIPPED = Path(fmtc.__file__).parent / "formats"
GOOD = 'format mine "My own" {\n  block 16\n  grid  e2m1\n  scale e4m3 { rule absmax }\n}\n'


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("fmtc ", f"{sys.executable} -m fmtc ")],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
        env={**os.environ, **environment},
        cwd=SHIPPED.parent.parent,
    )
