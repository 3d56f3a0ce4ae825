"""``python bench/slow.py`` is ``python -m bench slow``, from any folder."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.argv.insert(1, Path(__file__).stem)
    runpy.run_module("bench", run_name="__main__")
