"""Arrays, tables and lists as tensors."""

import numpy as np
import pytest
import torch

from pyrosparse.util.arrays import as_tensor, rows


class Table:
    """As of a library of tables, which gives its numbers as an array."""

    def __init__(self, array):
        self.array = np.asarray(array)

    def to_numpy(self):
        return self.array


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.array([0.5, 2.0]), torch.float32),
        (np.array([0.5, 2.0], np.float32), torch.float32),
        (np.array([0.5, 2.0], np.float16), torch.float32),
        (np.array([0.5, 2.0], np.longdouble), torch.float32),
        (np.array([1, 2], np.int32), torch.int64),
        (np.array([1, 2], np.uint8), torch.int64),
        (np.array([1, 2], ">i8"), torch.int64),
        (np.array([True, False]), torch.bool),
        (Table([0.5, 2.0]), torch.float32),
        ([0.5, 2.0], torch.float32),
        ([1, 2], torch.int64),
        (np.array([0.5, 1.0, 2.0])[::-2], torch.float32),
    ],
)
def test_numbers_are_kept_in_the_dtypes_of_torch(value, dtype):
    found = as_tensor(value, "x")
    array = value.to_numpy() if isinstance(value, Table) else np.asarray(value)
    assert found.dtype is dtype
    assert found.tolist() == array.tolist()


def test_floating_numbers_follow_the_default_dtype_and_tensors_stay():
    array = np.array([0.1, 0.2])
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(as_tensor(array, "x"), torch.tensor([0.1, 0.2], dtype=torch.float64))
    finally:
        torch.set_default_dtype(torch.float32)
    tensor = torch.zeros(2, dtype=torch.float64)
    assert as_tensor(tensor, "x") is tensor


def test_an_array_that_changes_later_changes_no_tensor():
    array = np.zeros(3, np.float32)
    tensor = as_tensor(array, "x")
    array[:] = 1
    assert tensor.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.array(["cat", "dog"]), ValueError, "x of the data has the dtype <U3"),
        (np.array([1, None]), ValueError, "the dtype object"),
        (np.array(["2020-01-01"], "M8[D]"), ValueError, "datetime64"),
        (np.array([1 + 2j]), ValueError, "complex128"),
        (np.array([2**63], np.uint64), ValueError, "uint64"),
        (["cat", "dog"], ValueError, "<U3"),
        ([[1.0], [1.0, 2.0]], ValueError, "rows of different shapes"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), ValueError, "masked array"),
        ([torch.zeros(2)], TypeError, "torch.stack"),
        (None, TypeError, "NoneType"),
        ("digits", TypeError, "x of the data is a str"),
        ((torch.zeros(2), torch.zeros(2)), TypeError, "batches belong in a list"),
    ],
)
def test_what_is_no_column_of_numbers_is_refused_by_name(value, error, message):
    with pytest.raises(error, match=message):
        as_tensor(value, "x")


@pytest.mark.parametrize("value", [torch.tensor(1.0), np.float64(1.0), np.array(3)])
def test_one_number_is_no_column(value):
    with pytest.raises(ValueError, match="y of the data is one number"):
        rows(np.asarray(value) if isinstance(value, np.generic) else value, "y")
