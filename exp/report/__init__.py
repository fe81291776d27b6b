"""The results for people: figures, annotated videos, pages, tables, and lines on the terminal."""

import importlib.util
import os

# Figures are written to files and need no backend of matplotlib. Notebooks set one for all their processes, and then
# importing matplotlib fails if the package of this backend is missing here.
_backend = os.environ.get("MPLBACKEND", "")
if _backend.startswith("module://"):
    _package = _backend.removeprefix("module://").partition(".")[0]
    if importlib.util.find_spec(_package) is None:
        del os.environ["MPLBACKEND"]
