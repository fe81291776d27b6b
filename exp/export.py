"""Export the network of a run, to be used without this project: `python -m exp.export RUN` writes RUN/model.pt2.

    program = torch.export.load("model.pt2").module()
    items = torch.load("m_items.pt", weights_only=True)["items"]
    frame, queries, distance = program(frames, items)

    frames    (B, inputs, H, W)  any number of clips at the frame size of the run: 8-bit BGR or gray pictures, scaled by
                                 x / 127.5 - 1. pred: the t_length - 1 previous frames, oldest first; recon: the frame
    items     (M, C)             the memory; an input, because it may be updated from frame to frame
    frame     (B, c, H, W)       the prediction or the reconstruction, in [-1, 1]
    queries   (B, H/8, W/8, C)   L2-normalised features, with which the memory is updated
    distance  (B,)               the feature distance D of each clip

Everything is float32 on the CPU, with batch norms folded. A network without a memory takes items of shape (0, C).

With --onnx FILE.onnx, an ONNX graph with the same inputs and outputs is written too, and the items in FILE.items.npy.
The .pt2 file holds an extra file `mnad.json`, and the ONNX graph holds the same as metadata, with everything that
scoring needs: method, t_length, h, w, c, channels ("BGR" or "gray"), scaling, alpha, th, and calibration (null, or the
means and deviations of P and D over normal frames, and the threshold that a share false_alarm_rate of them exceeds).

    e = ((frame - target) / 2)²                     target: the true frame, scaled like the input
    P = -10 log10(mean of e), in dB                 E = sum of (1 - exp(-e)) e / sum of (1 - exp(-e)), the regular score
    abnormality = alpha (psnr_mean - P) / psnr_deviation + (1 - alpha) (distance - distance_mean) / distance_deviation

A frame with E below th then updates the items, as `update` in model/memory.py does.
"""

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from exp.checkpoints import SHAPE, load_model
from exp.device import fold_batch_norms
from exp.run import RUN_FILES
from exp.scoring import calibration
from exp.scoring.calibration import FALSE_ALARM_RATE, Calibration
from exp.scoring.score import published
from model import memory
from model.convae import ConvAE
from utils import InputError, Parser, run_script, write_whole

OUTPUTS = ("frame", "queries", "distance")
BATCH = {"frames": {0: torch.export.Dim("batch")}, "items": None}  # the dimensions of variable size
METADATA = "mnad.json"
ONNX_PACKAGES = ("onnx", "onnxscript")


class Scorer(nn.Module):
    """frames (B, inputs, H, W) and items (M, C) -> frame, queries and distance, as above."""

    def __init__(self, model: ConvAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.model.encode(frames)
        distance = memory.compactness(encoded.queries.flatten(1, 2), items.expand(frames.shape[0], -1, -1))
        return self.model.decode(encoded, items), encoded.queries, distance


def export_program(model: ConvAE, shape: dict[str, Any]) -> ExportedProgram:
    """Export a network in eval mode on the CPU; shape: its settings, a dict with the names in SHAPE."""
    # two clips, since torch.export specialises a batch of one
    examples = torch.zeros(2, model.inputs, shape["h"], shape["w"]), torch.zeros(shape["msize"], shape["fdim"])
    scorer = Scorer(fold_batch_norms(model)).eval()
    return torch.export.export(scorer, examples, dynamic_shapes=BATCH, strict=False)


def about(shape: dict[str, Any], normal: Calibration | None) -> dict[str, Any]:
    """The content of mnad.json, described at the top of this file."""
    scoring = published(shape)
    channels, scaling = "BGR" if shape["c"] == 3 else "gray", "x / 127.5 - 1"
    found = {**shape, "channels": channels, "scaling": scaling, "alpha": scoring.alpha, "th": scoring.th}
    if normal is None:
        return {**found, "calibration": None}
    (mean_p, deviation_p), (mean_d, deviation_d) = normal.means_and_deviations
    normal_frames = {
        "psnr_mean": float(mean_p),
        "psnr_deviation": float(deviation_p),
        "distance_mean": float(mean_d),
        "distance_deviation": float(deviation_d),
        # nothing is smoothed, so the rate has no effect
        "threshold": normal.threshold(scoring, FALSE_ALARM_RATE, fps=1),
        "false_alarm_rate": FALSE_ALARM_RATE,
    }
    return {**found, "calibration": normal_frames}


def save_program(path: Path, program: ExportedProgram, known: dict[str, Any]) -> None:
    """Write a .pt2 file with `known` as its mnad.json. Raises InputError when it cannot be written."""
    content = io.BytesIO()  # a full disk inside torch.export.save would end the process
    torch.export.save(program, content, extra_files={METADATA: json.dumps(known)})
    write_whole(path, lambda temporary: temporary.write_bytes(content.getbuffer()))


def check_output(path: Path, run: Path) -> None:
    """Raise InputError when `path` is a file of the run, is not a regular file, or is in no folder."""
    own = [run / name for name in (*RUN_FILES, "flags.json", "train.lock")]
    if any(
        path.resolve() == file.resolve() or (path.exists() and file.exists() and path.samefile(file)) for file in own
    ):
        raise InputError(f"{path} is a file of the run itself: give another name for the output")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: {path.parent} is not a folder")
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it exists and is not a regular file")


def save_onnx(path: Path, program: ExportedProgram, items: Tensor, known: dict[str, Any]) -> None:
    """Write an ONNX graph with `known` as metadata, and the items (M, C) beside it.

    Raises InputError when the packages for it are missing, or a file cannot be written.
    """
    check_onnx()
    names, outputs = list(BATCH), list(OUTPUTS)
    graph = torch.onnx.export(
        program, dynamo=True, verbose=False, dynamic_shapes=BATCH, input_names=names, output_names=outputs
    )
    assert graph is not None  # it is None only when a file is given
    graph.model.metadata_props[METADATA] = json.dumps(known)
    content = io.BytesIO()
    np.save(content, items.numpy())
    write_whole(items_path(path), lambda temporary: temporary.write_bytes(content.getbuffer()))
    write_whole(path, lambda temporary: graph.save(temporary))


def items_path(onnx: Path) -> Path:
    """The path of the memory items of an ONNX file."""
    return onnx.with_suffix(".items.npy")


def check_onnx() -> None:
    """Raise InputError when the packages for ONNX are missing."""
    if missing := [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        raise InputError(f"--onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def main() -> None:
    parser = Parser(
        prog="python -m exp.export", description="Export the network of a run, to be used without this project."
    )
    parser.add_argument("run", type=Path, help="the directory of a run, or a model file with m_items.pt beside it")
    parser.add_argument("--output", type=Path, help="the .pt2 file; model.pt2 beside the model if not given")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="also write an ONNX file, with the items beside it")
    args = parser.parse_args()
    model_path = args.run / "model.pth" if args.run.is_dir() else args.run
    output = args.output or model_path.with_suffix(".pt2")
    for path in (output, *((args.onnx, items_path(args.onnx)) if args.onnx else ())):
        check_output(path, model_path.parent)
    if args.onnx and args.onnx.resolve() == output.resolve():
        raise InputError(f"--output and --onnx name the same file, {output}")
    if args.onnx:
        check_onnx()
    model, items, shape = load_model(model_path, model_path.with_name("m_items.pt"), dict.fromkeys(SHAPE))
    program, normal = export_program(model, shape), None
    try:
        normal = calibration.load(model_path, items)
    except InputError as error:
        print(f"exported without a calibration: {error}")
    known = about(shape, normal)
    save_program(output, program, known)
    takes = f"frames (B, {model.inputs}, {shape['h']}, {shape['w']}) and items {tuple(items.shape)}"
    print(f"{output}: takes {takes}, returns {', '.join(OUTPUTS)}")
    if args.onnx:
        save_onnx(args.onnx, program, items, known)
        print(f"{args.onnx}: the same as ONNX, with the items in {items_path(args.onnx)}")


if __name__ == "__main__":
    run_script(main)
