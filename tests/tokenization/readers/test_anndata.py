"""Compressed arrays read beside the HDF5 library give what the library gives, by any number of threads."""

from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from geneformer.tokenization.readers.anndata import DeflatedArray, deflated

VALUES = np.random.default_rng(0).poisson(1.5, 10_007)


def stored(path, **how):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=VALUES.astype(how.pop("dtype", np.float32)), **how)
    return h5py.File(path)["x"]


@pytest.mark.parametrize("dtype", [np.float32, np.int32, ">i8", np.uint8])
@pytest.mark.parametrize("shuffle", [False, True])
def test_slices_are_those_of_the_library(tmp_path, dtype, shuffle):
    dataset = stored(tmp_path / "x.h5", dtype=dtype, chunks=(1000,), compression="gzip", shuffle=shuffle)
    array = deflated(dataset)
    assert isinstance(array, DeflatedArray)
    for start, stop in ((0, 1), (5, 1005), (999, 1000), (3000, 6000), (9990, 10_007), (0, 10_007), (7, 7)):
        np.testing.assert_array_equal(array[start:stop], dataset[start:stop])
        assert array[start:stop].dtype == dataset.dtype
    spans = [(start, start + 137) for start in range(0, 9000, 61)]
    with ThreadPoolExecutor(4) as threads:
        for (start, stop), found in zip(spans, threads.map(lambda span: array[slice(*span)], spans), strict=True):
            np.testing.assert_array_equal(found, VALUES[start:stop])


@pytest.mark.parametrize(
    "how",
    [{}, {"chunks": (1000,)}, {"compression": "lzf"}, {"compression": "gzip", "fletcher32": True}],
    ids=["contiguous", "plain", "lzf", "checksums"],
)
def test_others_are_left_to_the_library(tmp_path, how):
    dataset = stored(tmp_path / "x.h5", **how)
    assert deflated(dataset) is dataset


def test_pieces_never_written_are_left_to_the_library(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", shape=(5000,), dtype="f4", chunks=(1000,), compression="gzip")
        file["x"][2000:2500] = 1
    dataset = h5py.File(tmp_path / "x.h5")["x"]
    assert deflated(dataset) is dataset


def test_a_piece_stored_as_it_is(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=VALUES.astype("f4"), chunks=(1000,), compression="gzip")
        file["x"].id.write_direct_chunk((2000,), VALUES[2000:3000].astype("f4").tobytes(), filter_mask=1)
    array = deflated(h5py.File(tmp_path / "x.h5")["x"])
    np.testing.assert_array_equal(array[1500:3500], VALUES[1500:3500])


def test_damage_is_an_error_of_reading(tmp_path):
    import zlib

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=VALUES.astype("f4"), chunks=(1000,), compression="gzip")
        file["x"].id.write_direct_chunk((2000,), b"nonsense")
        file["x"].id.write_direct_chunk((3000,), zlib.compress(b"short"))
    array = deflated(h5py.File(tmp_path / "x.h5")["x"])
    with pytest.raises(OSError, match="decompress"):
        array[2000:2010]
    with pytest.raises(OSError, match="holds 5 bytes"):
        array[3000:3010]
