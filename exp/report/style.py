"""How figures look and how they are written, for all modules that draw figures."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from torch import Tensor

from data.masks import Masks
from utils import InputError, write_whole

# Okabe and Ito's colours, which colour-blind people can tell apart
NORMAL, ABNORMAL, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
MASK = "#56B4E9"  # another of these colours, visible on gray and on heat maps
# One colour per memory item, drawn half transparent on gray. The two most similar of these ten differ as much as
# possible, for colour-blind people too
ITEMS = ("#0000df", "#ff9f80", "#00bf00", "#9f40ff", "#dfff00", "#800040", "#80ffff", "#ff0080", "#606000", "#409fdf")
SHADE: dict[str, Any] = {"color": ABNORMAL, "alpha": 0.2, "linewidth": 0}  # labelled intervals
OUTLINE = [withStroke(linewidth=3, foreground="white")]  # keeps text legible on pictures
STYLE: Any = {
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
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "",  # the same figure is the same file
}
styled = matplotlib.rc_context(STYLE)


class Look(NamedTuple):
    """What the figures of an evaluation show besides its results, and how they are written."""

    # (index of a video, index of a frame) to draw in detail; typical frames if empty
    frames: Sequence[tuple[int, int]] = ()
    note: str = ""  # shown beside an AUC: the settings that differ from the paper's
    format: str = "png"  # one of exp.flags.FIGURE_FORMATS
    masks: Masks | None = None  # masks of abnormal pixels, to be outlined


def add_title(figure: Figure, text: str) -> None:
    """Add the title of a figure."""
    figure.suptitle(text, fontsize=14, parse_math=False)  # names of videos may contain a $


def beside(note: str, width: int) -> str:
    """A note in brackets for below a title, in lines of at most `width` characters; "" if there is none."""
    return "\n" + textwrap.fill(f"({note})", width) if note else ""


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format given by its extension, completely or not at all. Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    kind = path.suffix.removeprefix(".")
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    write_whole(path, lambda temporary: figure.savefig(temporary, format=kind, metadata=undated))


def item_colours(count: int) -> Colormap:
    """A colormap with a colour for each of `count` memory items: item number -> RGBA."""
    if count > len(ITEMS):
        return matplotlib.colormaps["turbo"].resampled(count)
    return ListedColormap(list(ITEMS[:count]))  # a list: matplotlib 3.8 takes a tuple of two for a colour and its alpha


def draw_item_maps(axes: Axes, maps: Tensor, columns: int, **shown: Any) -> AxesImage:
    """Draw the maps of the memory items, (M, h, w), side by side, each with the number of its item."""
    from torchvision.utils import make_grid  # here, as its import takes a second, and not all figures need it

    _, height, width = maps.shape
    pad = max(1, width // 8)
    tiled = make_grid(maps[:, None], columns, padding=pad, pad_value=torch.nan)[0].numpy()
    picture = axes.imshow(tiled, cmap="cividis", interpolation="nearest", **shown)
    for item in range(len(maps)):
        row, column = divmod(item, columns)
        corner = column * (width + pad) + pad - 0.5, row * (height + pad) + pad - 0.5
        place: dict[str, Any] = {"xytext": (3, -3), "textcoords": "offset points", "ha": "left", "va": "top"}
        axes.annotate(str(item), corner, fontsize=10, path_effects=OUTLINE, **place)
    axes.set_axis_off()
    return picture
