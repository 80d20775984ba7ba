"""The reader of .mat masks on files that scipy writes, and on what is no mask."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from numpy.typing import NDArray

from seg.data.mat import read_mat
from seg.errors import DataError

MASK = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)


def write(path: Path, mask: object, *, compress: bool = True) -> Path:
    """A file like SBD's: beside the mask there are boundaries in sparse matrices, and a list of classes."""
    boundaries = np.empty((2, 1), dtype=object)
    boundaries[:, 0] = [scipy.sparse.csc_array(np.eye(5)), scipy.sparse.csc_array(np.eye(7))]
    fields = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.arange(3)}
    scipy.io.savemat(path, {"other": np.ones(3), "GTcls": fields}, do_compression=compress)
    return path


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_a_mask_is_read_as_it_was_written(tmp_path: Path, dtype: type, compress: bool) -> None:
    found = read_mat(write(tmp_path / "a.mat", MASK.astype(dtype), compress=compress), "GTcls")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, MASK)


def test_masks_of_one_value_and_of_one_row_are_read(tmp_path: Path) -> None:
    for mask in (np.full((1, 1), 3), np.arange(4)[None], np.arange(3)[:, None] > 0):
        np.testing.assert_array_equal(read_mat(write(tmp_path / "a.mat", mask), "GTcls"), mask)


@pytest.mark.parametrize(
    "mask", [MASK.astype(np.int16) + 99, MASK - 200.0, MASK / 2, MASK + np.nan, MASK[None], MASK * 1j, "mask", MASK[:0]]
)
def test_what_is_no_map_of_ids_is_refused_by_name(tmp_path: Path, mask: NDArray) -> None:
    path = write(tmp_path / "a.mat", mask)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: no GTcls.Segmentation can be read"):
        read_mat(path, "GTcls")


def test_a_missing_variable_or_field_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat", MASK)
    with pytest.raises(DataError, match="it holds no GTinst"):
        read_mat(path, "GTinst")
    with pytest.raises(DataError, match="it is no struct"):
        read_mat(path, "other")
    scipy.io.savemat(path, {"GTcls": {"Segments": MASK}})
    with pytest.raises(DataError, match="values for the fields.*Segments"):
        read_mat(path, "GTcls")


@pytest.mark.fault(33)
def test_fault_33_a_mat_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mat", np.zeros((1200, 1000), dtype=np.uint8))
    assert path.stat().st_size < 10_000
    read_mat(path, "GTcls")
    monkeypatch.setenv("SEG_MAX_PIXELS", "1000")
    with pytest.raises(DataError, match="unpacks to more than"):
        read_mat(path, "GTcls")
