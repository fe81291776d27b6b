"""What a person looks at: figures, annotated videos, pages, tables, and the lines on the terminal."""

import importlib.util
import os

# Figures are written to files and need no backend of matplotlib. Every notebook exports one, and matplotlib refuses to
# be imported in an environment that lacks its package.
_backend = os.environ.get("MPLBACKEND", "")
if _backend.startswith("module://"):
    _package = _backend.removeprefix("module://").partition(".")[0]
    if importlib.util.find_spec(_package) is None:
        del os.environ["MPLBACKEND"]
