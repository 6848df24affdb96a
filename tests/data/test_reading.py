"""Pictures keep their order and their faults, whether threads or processes read them, and the right ones are chosen."""

import threading
import time
from itertools import chain

import numpy as np
import pytest
import torch

from chiasm.data import reading
from chiasm.data.reading import blocks
from chiasm.data.transforms import PreprocessConfig, read_pixels
from chiasm.types import Example

CONFIG = PreprocessConfig(size=(8, 12))


@pytest.mark.parametrize(("way", "readers"), [("processes", 0), ("threads", 2), ("one thread", 1)])
def test_blocks_keep_their_order_and_say_what_is_broken(monkeypatch, way, readers):
    monkeypatch.setattr(reading, "BLOCK", 4)
    monkeypatch.setattr(reading, "RUN", 1)
    monkeypatch.setattr(reading, "available_cores", lambda: 2)
    monkeypatch.setattr(reading, "_processes_pay", lambda seconds, pictures: way == "processes")
    monkeypatch.setattr(reading, "SMALL_SECONDS", 0.0 if way == "threads" else 1.0)
    used, fill = set(), reading._fill

    def slowly(*given):
        used.add(threading.get_ident())
        time.sleep(0.02)  # so that no thread does it all
        return fill(*given)

    monkeypatch.setattr(reading, "_fill", slowly)
    arrays = np.random.default_rng(0).integers(0, 256, (11, 20, 30, 3), dtype=np.uint8)
    images = [b"" if row == 6 else array for row, array in enumerate(arrays)]
    state = torch.get_rng_state()
    pixels, reasons = zip(*blocks([Example(image=i, texts=(), key="") for i in images], CONFIG), strict=True)
    assert [len(block) for block in pixels] == [4, 4, 3]
    black = np.zeros((8, 12, 3), np.uint8)
    expected = np.stack([read_pixels(image, CONFIG) if len(image) else black for image in images])
    np.testing.assert_array_equal(torch.cat(pixels), expected)
    assert list(chain(*reasons)) == [None] * 6 + ["the file is empty"] + [None] * 4
    assert torch.equal(torch.get_rng_state(), state)
    assert len(used - {threading.get_ident()}) == readers


def test_processes_read_many_small_pictures_only_and_only_where_they_are_forked(monkeypatch):
    monkeypatch.setattr(reading, "available_cores", lambda: 2)
    for method, small in (("fork", True), ("spawn", False)):
        monkeypatch.setattr(reading.multiprocessing, "get_start_method", lambda method=method: method)
        assert reading._processes_pay(2e-4, 10_000) is small
        assert not reading._processes_pay(2e-3, 10_000) and not reading._processes_pay(2e-4, 1_000)
    monkeypatch.setattr(reading.multiprocessing, "get_start_method", lambda: "fork")
    monkeypatch.setattr(reading, "available_cores", lambda: 1)
    assert not reading._processes_pay(2e-4, 10_000)
