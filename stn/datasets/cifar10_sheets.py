"""CIFAR-10 from PNG sheets into the binary layout: `python -m stn.datasets.cifar10_sheets SHEETS FOLDER`.

A sheet is an RGB picture with an image per row: its 1024 pixels, row by row. `data_batch_1.png` to
`data_batch_5.png` share the labels in `train_lables.json`, and `test_batch.png` has `test_lables.json` (sic).
"""

import argparse
import json
import sys
from pathlib import Path

import numpy
import torch
from PIL import Image

from stn.datasets.images import SHAPE, Images, write_binary
from stn.errors import UserError

LABELS = {
    "train_lables.json": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test_lables.json": ("test_batch",),
}


def convert(sheets: Path, folder: Path) -> None:
    """Writes the six files of the binary layout into `folder`, from the sheets and labels in `sheets`.

    Raises UserError where something there is missing, damaged or does not fit together, or a file cannot be written.
    """
    for name, batches in LABELS.items():
        labels = _read_labels(sheets / name)
        for batch in batches:
            pixels = _read_sheet(sheets / f"{batch}.png")
            now, labels = labels[: len(pixels)], labels[len(pixels) :]
            if len(now) < len(pixels):
                raise UserError(f"{sheets / name} has fewer labels than there are images: get another copy")
            write_binary(Images(pixels, now), folder / f"{batch}.bin")
        if len(labels):
            raise UserError(f"{sheets / name} has more labels than there are images: get another copy")


def _read_labels(path: Path) -> torch.Tensor:
    """(N,) int64."""
    try:
        return torch.tensor(list(json.loads(path.read_bytes())), dtype=torch.int64)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is missing or is no list of labels: get another copy") from error


def _read_sheet(path: Path) -> torch.Tensor:
    """(N, 3, 32, 32) uint8."""
    try:
        with Image.open(path) as sheet:
            pixels = numpy.array(sheet.convert("RGB"))  # (N, 1024, 3)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is missing or is no picture: get another copy") from error
    if pixels.shape[1] != SHAPE[1] * SHAPE[2]:
        raise UserError(f"{path} is {pixels.shape[1]} pixels wide instead of 1024: get another copy")
    return torch.from_numpy(pixels.transpose(0, 2, 1).reshape(-1, *SHAPE))


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode CIFAR-10 sheets into the six files of the binary layout.")
    parser.add_argument("sheets", type=Path, help="the folder with the six sheets and the two files of labels")
    parser.add_argument("folder", type=Path, help="where the six files go")
    args = parser.parse_args()
    try:
        convert(args.sheets, args.folder)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
