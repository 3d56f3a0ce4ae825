"""The programs in C, compiled on demand."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["compiled"]

_CACHE = Path(__file__).parent / ".cache"


def compiled(source: Path) -> Path:
    """Return the executable of a C file; compiles it when its text has not been before.

    Raises:
        SystemExit: There is no C compiler; one line says so.
    """
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    program = _CACHE / f"{source.stem}-{digest}"
    if not program.exists():
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise SystemExit("no C compiler on PATH: install one (Debian: apt install gcc)")
        _CACHE.mkdir(exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O2", "-Wall", "-o", str(made), str(source)], check=True)
        made.rename(program)
    return program
