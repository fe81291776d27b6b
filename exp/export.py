"""The network of a run as a program that needs nothing of this project: `python -m exp.export RUN`, to RUN/model.pt2.

    program = torch.export.load("model.pt2").module()
    items = torch.load("m_items.pt", weights_only=True)["items"]
    frame, queries, distance = program(frames, items)

    frames    (B, inputs, H, W)  clips of any number, at the frame size of the run: x / 127.5 - 1 of 8-bit BGR or gray
                                 pictures. pred: the t_length - 1 frames before, the oldest first; recon: the frame
    items     (M, C)             the memory, read inside; an input, since it may be updated from frame to frame
    frame     (B, c, H, W)       the prediction or the reconstruction, in [-1, 1]
    queries   (B, H/8, W/8, C)   features of unit length: what an update of the memory takes
    distance  (B,)               feature distance D of each clip from the memory

All float32, on the CPU, batch norms folded. With --onnx FILE as an ONNX graph too, inputs and outputs named as above.
The .pt2 holds `mnad.json`, an extra file of torch.export.load: method, frame size and lengths.
"""

import importlib.util
import json
from pathlib import Path

import torch
from torch import nn

from exp.checkpoints import SHAPE, load_model
from exp.device import fold_batch_norms
from model import memory
from utils import InputError, Parser, run_script, write_whole

OUTPUTS = ("frame", "queries", "distance")
BATCH = {"frames": {0: torch.export.Dim("batch")}, "items": None}  # the dimensions that stay open
ONNX_PACKAGES = ("onnx", "onnxscript")


class Scorer(nn.Module):
    """frames (B, inputs, H, W), items (M, C) -> frame, queries, distance, as above."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, frames, items):
        encoded = self.model.encode(frames)
        distance = memory.compactness(encoded.queries.flatten(1, 2), items.expand(frames.shape[0], -1, -1))
        return self.model.decode(encoded, items), encoded.queries, distance


def export_program(model, shape):
    """A network in eval mode, on the CPU, with its settings (a dict with the names in SHAPE) -> ExportedProgram."""
    # two clips: a batch of one is taken for a special case
    examples = torch.zeros(2, model.inputs, shape["h"], shape["w"]), torch.zeros(shape["msize"], shape["fdim"])
    scorer = Scorer(fold_batch_norms(model)).eval()
    return torch.export.export(scorer, examples, dynamic_shapes=BATCH, strict=False)


def save_program(path, program, shape):
    def write(temporary):
        with open(temporary, "wb") as file:
            torch.export.save(program, file, extra_files={"mnad.json": json.dumps(shape)})

    write_whole(path, write)


def save_onnx(path, program):
    """Raises InputError where the packages for it are missing, or the file cannot be written."""
    check_onnx()
    names = {"input_names": list(BATCH), "output_names": OUTPUTS}
    graph = torch.onnx.export(program, dynamo=True, verbose=False, dynamic_shapes=BATCH, **names)
    write_whole(path, lambda temporary: graph.save(temporary))


def check_onnx():
    """Raise InputError where the packages that ONNX takes are missing."""
    if missing := [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        raise InputError(f"--onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def main():
    parser = Parser(prog="python -m exp.export", description="The network of a run as a self-contained program.")
    parser.add_argument("run", type=Path, help="the directory of a run, or a model file with m_items.pt beside it")
    parser.add_argument("--output", type=Path, help="the .pt2 file; model.pt2 in the run when not given")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="write an ONNX file too")
    args = parser.parse_args()
    model_path = args.run / "model.pth" if args.run.is_dir() else args.run
    output = args.output or model_path.with_suffix(".pt2")
    if args.onnx:
        check_onnx()
    model, items, shape = load_model(model_path, model_path.with_name("m_items.pt"), dict.fromkeys(SHAPE))
    program = export_program(model, shape)
    save_program(output, program, shape)
    takes = f"frames (B, {model.inputs}, {shape['h']}, {shape['w']}) and items {tuple(items.shape)}"
    print(f"{output}: takes {takes}, gives {', '.join(OUTPUTS)}")
    if args.onnx:
        save_onnx(args.onnx, program)
        print(f"{args.onnx}: the same as ONNX")


if __name__ == "__main__":
    run_script(main)
