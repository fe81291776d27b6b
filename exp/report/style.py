"""How figures look, and how they are written: what exp/report/curves.py and exp/report/panels.py share."""

from pathlib import Path

import matplotlib
from matplotlib.colors import ListedColormap

from utils import InputError, write_whole

# Okabe and Ito's colours, which colour-blind people can tell apart
NORMAL, ABNORMAL, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
# Petroff's ten, found by a survey among colours that the colour-blind tell apart: one for each memory item
ITEMS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
SHADE = {"color": ABNORMAL, "alpha": 0.2, "linewidth": 0}  # of ground truth
STYLE = {
    "figure.dpi": 100,  # so a figure of 12 x 7 inches has 1200 x 700 pixels
    "savefig.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}
styled = matplotlib.rc_context(STYLE)


def add_title(figure, text):
    figure.suptitle(text, fontsize=14, parse_math=False)  # names of videos may hold a $


def save(figure, path):
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


def item_colours(count):
    """A colormap with a colour for each of `count` memory items: item number -> RGBA."""
    return ListedColormap(ITEMS[:count]) if count <= len(ITEMS) else matplotlib.colormaps["turbo"].resampled(count)
