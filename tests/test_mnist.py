"""stn.datasets.mnist among the scripts' data sets; its files are read in test_idx."""

import hashlib

from test_idx import TEST, TRAIN, flat, pixels_of, write_small

import cnn.datasets
from stn.datasets.mnist import MNIST_SHA256


def test_splits_keep_shape_and_normalization_and_have_a_checksum(tmp_path, monkeypatch):
    write_small(tmp_path, MNIST_SHA256, monkeypatch)
    sets = cnn.datasets.load("mnist", str(tmp_path), 0.5)
    assert [len(split) for split in (sets.train, sets.valid, sets.test)] == [1, 2, 2]
    assert sets.valid.pixels.shape == (2, 1, 28, 28) and sets.classes == tuple("0123456789")
    assert sets.normalization.mean == (0.1307,) and sets.normalization.deviation == (0.3081,)
    rows = zip([5, 0, 9, 7, 2], [*pixels_of(TRAIN, 0), *pixels_of(TEST, 100)], strict=True)
    content = b"".join(bytes([label, *flat([image])]) for label, image in rows)
    assert sets.checksum == hashlib.sha256(content).hexdigest()
