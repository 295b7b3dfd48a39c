"""What users pass, checked and in the form the core takes. Every error is a ValueError that names the argument, or an
OSError that names a file.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
Prompt: TypeAlias = str | TokenIds
Texts: TypeAlias = list[str] | tuple[str, ...] | npt.NDArray[np.str_ | np.object_]
Prompts: TypeAlias = Sequence[Prompt] | npt.NDArray[np.str_ | np.object_]

_INT64_MAX = 2**63 - 1
_TEXT_KINDS = "UTO"  # of NumPy's dtypes: str of one width, str, and objects

SEQUENCES = "a list of token ids, or a list of these"
"""What models read."""


def integer(name: str, value: object, low: int, high: int = _INT64_MAX) -> int:
    """A whole number in [low, high]; NumPy's count, bools and floats do not."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} is {value!r} of type {type(value).__name__}, expected a whole number") from None
    if not low <= number <= high:
        limit = f"{low} or more" if high == _INT64_MAX and number < low else f"{low} to {high}"
        raise ValueError(f"{name} is {number}, expected {limit}")
    return number


def number(name: str, value: object) -> float:
    """A real number; its range is the core's to check."""
    if getattr(value, "ndim", None) == 0 and not isinstance(value, np.generic):  # as integer() takes these
        value = numpy_array(name, value)[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{name} is {value!r} of type {type(value).__name__}, expected a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is more than a float holds, expected a number") from None


def boolean(name: str, value: object) -> bool:
    """True or False, and nothing that merely counts as one."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r} of type {type(value).__name__}, expected True or False")
    return bool(value)


def strings(name: str, value: object) -> list[str]:
    """None, one str or several, as a list."""
    if value is None:
        return []
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else None
    if found is None or not all(isinstance(item, str) for item in found):
        raise ValueError(f"{name} is {value!r}, expected a str or a list of str")
    for item in found:
        try:
            item.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{name} holds {item!r} with a lone surrogate, so no text can hold it") from None
    return found


def biases(name: str, value: object) -> list[tuple[int, float]]:
    """None or a mapping from token id to bias, as pairs."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is of type {type(value).__name__}, expected a dict from token id to a number")
    return [
        (integer(f"a token of {name}", id, 0, 2**31 - 1), number(f"{name}[{id!r}]", bias)) for id, bias in value.items()
    ]


def numpy_array(name: str, value: object, *, copy: bool = False) -> npt.NDArray[Any]:
    """What NumPy makes of an array of any kind, of a masked one without masked values."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name} is an array with masked values, expected numbers: leave those out, as .compressed() does"
        )
    try:
        array = np.asarray(value)  # first: np.array would warn of tensors
        return np.array(array) if copy else array
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, of tensors with gradients or on other devices
        raise ValueError(f"{name} is no array that numpy can read ({error})") from None


def float_array(name: str, value: object, *, copy: bool = True) -> npt.NDArray[np.float32]:
    """Real numbers in float32, in C order; without ``copy`` the array itself, if it is so already."""
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":  # which numpy lacks
        value = value.float()  # type: ignore[attr-defined]
    array = numpy_array(name, value)
    if array.dtype.name == "bfloat16":  # of ml_dtypes
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is an array of {array.dtype}, expected real numbers")
    with np.errstate(over="ignore"):  # to infinity, without a warning of numpy's
        return np.array(array, dtype=np.float32, order="C") if copy else np.ascontiguousarray(array, dtype=np.float32)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def refuse_table(name: str, value: object, rows: str) -> None:
    """Refuses a pandas.DataFrame or pyarrow.Table, which gives its columns where rows are expected; ``rows`` gives
    them.
    """
    is_frame = hasattr(value, "columns") and hasattr(value, "to_numpy")
    if is_frame or (hasattr(value, "column_names") and hasattr(value, "to_pylist")):
        raise ValueError(
            f"{name} is of type {type(value).__name__}, expected texts or token ids: pass one column, or {rows}"
        )


def unwrapped(value: Any) -> Any:
    """A scalar of pyarrow as what it holds; anything else as it is."""
    return value.as_py() if hasattr(value, "as_py") else value


def is_batch(name: str, value: object, *, what: str = f"a str, {SEQUENCES}") -> bool:
    """Whether this is a list of sequences; False for a str and for one sequence of ids. An empty list is one empty
    sequence. Arrays of str, and what NumPy reads as such (a pandas.Series), are lists. Errors say that ``what`` was
    expected.
    """
    if isinstance(value, str):
        return False
    refuse_table(name, value, ".to_numpy()")
    if hasattr(value, "__array__"):
        array = numpy_array(name, value)
        if array.dtype.kind in _TEXT_KINDS:
            if array.ndim != 1:
                raise ValueError(f"{name} is an array of {array.dtype} {list(array.shape)}, expected texts [n]")
            return True
        if array.ndim not in (1, 2):
            raise ValueError(f"{name} is an array of {array.ndim} dimensions, expected token ids [n] or [batch, n]")
        return array.ndim == 2
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
        raise ValueError(f"{name} is of type {type(value).__name__}, expected {what}")
    if len(value) and set(map(type, value)) == {int}:
        return False
    flat = [_is_integer(item) for item in value]
    if any(flat) and not all(flat):
        odd = value[flat.index(False)]
        raise ValueError(f"{name} holds token ids and {odd!r} of type {type(odd).__name__}, expected one kind")
    return bool(flat) and not any(flat)


def iterator(name: str, value: object, expected: str) -> Iterator[Any]:
    """Over the inputs that an iterable of any kind gives; ``expected`` says what they are. A str and a mapping, which
    give letters and keys, are refused.
    """
    if not isinstance(value, str | Mapping):
        with contextlib.suppress(TypeError):
            return iter(value)  # type: ignore[call-overload, no-any-return]
    raise ValueError(f"{name} is of type {type(value).__name__}, expected {expected}")


def token_ids(name: str, value: object, vocab_size: int, *, what: str = "a list of token ids") -> npt.NDArray[np.int32]:
    """One sequence of ids as int32 [n], each in [0, vocab_size). Errors call it ``what`` was expected."""
    if isinstance(value, str):
        raise ValueError(f"{name} is a str, expected token ids: encode it first, with model.tokenizer.encode")
    if hasattr(value, "__array__"):
        ids = numpy_array(name, value, copy=True)  # what is checked cannot change any more
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        plain = set(map(type, value)) == {int} and min(value) >= 0 and max(value) < vocab_size
        for item in () if plain else value:
            if not _is_integer(item):
                raise ValueError(f"{name} holds {item!r} of type {type(item).__name__}, expected token ids")
            if not 0 <= item < vocab_size:
                raise ValueError(f"{name} holds token id {item}, expected 0 to {vocab_size - 1}")
        ids = np.array(value, dtype=np.int32)
    else:
        raise ValueError(f"{name} is of type {type(value).__name__}, expected {what}")
    if ids.ndim == 2 and len(ids) == 1:
        raise ValueError(f"{name} has shape {list(ids.shape)}, expected one sequence without a batch: pass its [0]")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"{name} is an array of {ids.dtype} with {ids.ndim} dimensions, expected whole numbers with one"
        )
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{name} holds token id {bad}, expected 0 to {vocab_size - 1}")
    return np.ascontiguousarray(ids, dtype=np.int32)


def sequence_ids(
    name: str, value: object, vocab_size: int, context_length: int, *, what: str = "a list of token ids"
) -> npt.NDArray[np.int32]:
    """One sequence of ids that a model can read whole, as int32 [n], n at least 1. Errors expect ``what``."""
    ids = token_ids(name, value, vocab_size, what=what)
    if len(ids) == 0:
        raise ValueError(f"{name} has no tokens, expected at least one, e.g. [model.tokenizer.eos_token_id]")
    if len(ids) > context_length:
        raise ValueError(f"{name} has {len(ids)} tokens, the model's context holds {context_length}: shorten it")
    return ids


def file_path(name: str, value: object) -> Path:
    """A str or other path."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name} is {value!r} of type {type(value).__name__}, expected a path")
    if not os.fspath(value):
        raise ValueError(f"{name} is empty, expected a path")
    return Path(value)


def regular_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file to write, which may be there.

    Raises:
        ValueError: it is no path, or has a null character.
        OSError: it is there and no regular file, but a folder, or a device such as /dev/null.
    """
    target = file_path("path", path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    is_stream = target.is_symlink() and os.readlink(target).startswith("/proc/")  # /dev/stdout, perhaps into a file
    if is_stream or (os.access(target, os.F_OK) and not target.is_file()):
        raise FileExistsError(errno.EEXIST, "is no regular file; give the name of a file to write", str(target))
    return target


def output_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file to write, looked at before the long work whose result it is for.

    Raises:
        ValueError: it is no path, or has a null character.
        OSError: its folder does not exist or cannot be written to, or it is there and no regular file: a rename would
            put a file in the place of a device.
    """
    target = regular_file(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist; create it", str(target))
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target.parent))
    return target
