"""CIFAR-100 from its two files of the binary version (Krizhevsky 2009).

A file is a sequence of rows, each of 3074 bytes: the label among 20 coarse classes, the label among 100 fine ones, then
the red, the green and the blue plane, 32 x 32 bytes each, row by row. The fine classes are the ones that count here.
"""

import math
from pathlib import Path

from stn.datasets.images import SHAPE, Images, Normalization, parse_binary, read_sized
from stn.errors import UserError

_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_NAMES.split())
CIFAR100_NORMALIZATION = Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
CIFAR100_ROWS = {"train.bin": 50_000, "test.bin": 10_000}
LABEL_BYTES = 2
_REMEDY = "run ./getdata.sh cifar100, which fills data/cifar100"


def load_cifar100(folder: Path) -> tuple[Images, Images]:
    """The 50,000 training and the 10,000 test images of CIFAR-100, (N, 3, 32, 32), with their fine labels.

    Raises UserError where the folder or a file is missing, unreadable, of another size, or has a label of no class.
    """
    row = LABEL_BYTES + math.prod(SHAPE)
    sizes = {name: rows * row for name, rows in CIFAR100_ROWS.items()}
    train, test = (_parse(path, content) for path, content in read_sized(folder, sizes, _REMEDY))
    return train, test


def _parse(path: Path, content: bytes) -> Images:
    images = parse_binary(content, LABEL_BYTES)
    foreign = (images.labels >= len(CIFAR100_CLASSES)).nonzero()
    if len(foreign):
        number = int(foreign[0])
        cause = f"label {int(images.labels[number])} of image {number} in {path} is none of 0 to 99"
        raise UserError(f"{cause}: {_REMEDY}")
    return images
