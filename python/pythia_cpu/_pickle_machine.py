"""Interprets the few pickle instructions that PyTorch's state dicts are written with, and nothing else.

Python's own unpickler imports and calls what a file names. This one knows data, the names below and three calls:
nothing in a file can make it import, call or set an attribute of anything else. Whatever it does not know is a
CheckpointError.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, NoReturn, cast

from pythia_cpu._errors import CheckpointError

# Storage classes -> dtype of their elements.
STORAGE_DTYPES: dict[str, str] = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_ORDERED_DICT = "collections.OrderedDict"
_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
# torch.nn.Parameter(tensor, ...): whether it is trained, hooks and attributes come after the tensor.
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"
ALLOWED_NAMES = frozenset({*STORAGE_DTYPES, _ORDERED_DICT, _REBUILD_TENSOR, *_REBUILD_PARAMETER})

# A tensor takes about 35 instructions and 150 bytes, a model of 1024 layers has 16 thousand tensors.
_MAX_PICKLE_BYTES = 1 << 24
_MAX_INSTRUCTIONS = 1 << 20
_MAX_TEXT = 1 << 12
_MAX_SHOWN = 200
_MAX_SIZE = 1 << 48
_MARK = object()


@dataclass(frozen=True)
class Name:
    """An imported name, which stays a name."""

    text: str


@dataclass(frozen=True)
class StorageRef:
    """A storage by its key in the file; ``num_elements`` is what the pickle says."""

    dtype: str
    key: str
    num_elements: int


@dataclass(frozen=True)
class TensorRef:
    """A strided view of a storage, in elements; not yet checked against the storage."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _BoundedReader:
    """A file that refuses to give a pickle more bytes than one may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _MAX_PICKLE_BYTES

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise ValueError(f"it is longer than {_MAX_PICKLE_BYTES} bytes")
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(_MAX_TEXT + 1)
        if len(line) > min(_MAX_TEXT, self._left):
            raise ValueError(f"it has a line of more than {_MAX_TEXT} bytes")
        self._left -= len(line)
        return line

    def tell(self) -> int:
        return self._file.tell()


def load_pickle(file: BinaryIO, where: str) -> Any:
    """Reads one pickle from the file's position and leaves the position after it. Returns plain data, Names and refs.

    Raises:
        CheckpointError: naming ``where`` and the import, call or instruction that is not allowed, or the damage.
    """
    machine = _Machine(where)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", _BoundedReader(file)))):
            if opcode.name == "STOP":
                return machine.pop()
            if count == _MAX_INSTRUCTIONS:
                raise ValueError(f"it has more than {_MAX_INSTRUCTIONS} instructions")
            machine.step(opcode.name, argument)
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
        raise CheckpointError(f"{where}: its pickle is damaged ({_cut(str(error))}); download the file again") from None
    raise CheckpointError(f"{where}: its pickle has no end; download the file again")


class _Machine:
    """The stack and the memo of one pickle, and what each of its instructions does to them.

    Methods named in ``_HANDLERS`` are instructions: they get the instruction's argument, None if it has none.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def _refuse(self, problem: str) -> NoReturn:
        raise CheckpointError(
            f"{self._where}: {problem}, which a checkpoint of weights never does; nothing of it was run. "
            "Do not trust this file: use safetensors weights"
        )

    def pop(self) -> Any:
        """Takes the uppermost value from the stack. Raises ValueError if a mark is there, IndexError if nothing is."""
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark is where a value should be")
        return value

    def _pop_to_mark(self) -> list[Any]:
        """Takes the values above the uppermost mark, the lowest first, and the mark."""
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def step(self, opcode: str, argument: Any) -> None:
        """Runs one instruction. Raises CheckpointError for one that weights do not need."""
        handler = _HANDLERS.get(opcode)
        if handler is None:
            self._refuse(f"its pickle uses the instruction {opcode}")
        handler(self, argument)

    def push_argument(self, argument: Any) -> None:
        if isinstance(argument, str) and len(argument) > _MAX_TEXT:
            raise ValueError(f"it has a text of {len(argument)} characters, expected {_MAX_TEXT} at most")
        self._stack.append(argument)

    def ignore(self, argument: Any) -> None:
        del argument

    def push_mark(self, argument: Any) -> None:
        del argument
        self._stack.append(_MARK)

    def push_name(self, argument: str) -> None:
        self._import(argument.replace(" ", ".", 1))

    def stack_name(self, argument: Any) -> None:
        del argument
        name, module = self._require(self.pop(), str), self._require(self.pop(), str)
        self._import(f"{module}.{name}")

    def _import(self, text: str) -> None:
        """Pushes the name of what would be imported, one of ``ALLOWED_NAMES``; nothing is imported."""
        if text not in ALLOWED_NAMES:
            self._refuse(f"its pickle imports {_cut(text)}")
        self._stack.append(Name(text))

    def memoize(self, argument: int | None) -> None:
        value = self._stack[-1]
        if value is _MARK:
            raise ValueError("a mark is memoized")
        self._memo[len(self._memo) if argument is None else argument] = value

    def recall(self, argument: int) -> None:
        self._stack.append(self._memo[argument])

    def make_tuple(self, argument: Any) -> None:
        del argument
        self._stack.append(tuple(self._pop_to_mark()))

    def append(self, argument: Any) -> None:
        del argument
        value = self.pop()
        self._require(self._stack[-1], list).append(value)

    def appends(self, argument: Any) -> None:
        del argument
        values = self._pop_to_mark()
        self._require(self._stack[-1], list).extend(values)

    def set_item(self, argument: Any) -> None:
        del argument
        value, key = self.pop(), self.pop()
        self._require(self._stack[-1], dict)[self._key(key)] = value

    def set_items(self, argument: Any) -> None:
        del argument
        values = self._pop_to_mark()
        target = self._require(self._stack[-1], dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[self._key(key)] = value

    def build(self, argument: Any) -> None:
        """A state dict carries ``_metadata`` as an attribute, which nobody here needs: it is dropped, not set."""
        del argument
        state = self.pop()
        if not isinstance(self._stack[-1], dict) or not isinstance(state, dict):
            self._refuse("its pickle sets the state of an object")

    def persistent_id(self, argument: Any) -> None:
        """A storage, ``("storage", type, key, device, number of elements)``, becomes a StorageRef."""
        del argument
        value = self.pop()
        if not isinstance(value, tuple) or len(value) not in (5, 6) or value[0] != "storage":
            self._refuse("its pickle asks for an object that is not a storage")
        kind, key, num_elements = value[1], value[2], value[4]
        if not isinstance(kind, Name) or kind.text not in STORAGE_DTYPES:
            self._refuse("its pickle has a storage of no known type")
        if len(value) == 6 and value[5] is not None:
            self._refuse("its pickle has a view of a storage")
        if not isinstance(key, str) or not _is_size(num_elements):
            raise ValueError(f"a storage has key {_shown(key)} and {_shown(num_elements)} elements")
        self._stack.append(StorageRef(STORAGE_DTYPES[kind.text], key, num_elements))

    def reduce(self, argument: Any) -> None:
        """The calls that state dicts need: an OrderedDict, which becomes a dict, a tensor of a storage, and a
        parameter, which becomes its tensor.
        """
        del argument
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            self._refuse("its pickle calls an object")
        if function.text == _ORDERED_DICT and arguments in ((), ([],)):
            self._stack.append({})
        elif function.text == _REBUILD_TENSOR:
            self._stack.append(self._rebuild_tensor(arguments))
        elif function.text in _REBUILD_PARAMETER and arguments and isinstance(arguments[0], TensorRef):
            self._stack.append(arguments[0])
        else:
            self._refuse(f"its pickle calls {function.text} with {len(arguments)} arguments")

    def _rebuild_tensor(self, arguments: tuple[Any, ...]) -> TensorRef:
        """``torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, ...)``, its sizes checked."""
        if not 6 <= len(arguments) <= 7 or not isinstance(arguments[0], StorageRef):
            raise ValueError(f"a tensor is rebuilt from {len(arguments)} arguments")
        storage, offset, shape, strides = arguments[:4]
        if (
            not isinstance(shape, tuple)
            or not isinstance(strides, tuple)
            or len(shape) != len(strides)
            or len(shape) > 8
        ):
            raise ValueError("a tensor's shape and strides do not belong together")
        if len(arguments) == 7 and arguments[6]:  # {"neg": True}: the stored numbers are not the tensor's
            raise ValueError("a tensor is a negative or conjugate view of its numbers: save it with .resolve_neg()")
        if not all(map(_is_size, (offset, *shape, *strides))):
            sizes, steps = (", ".join(map(_shown, values)) for values in (shape, strides))
            raise ValueError(f"a tensor has offset {_shown(offset)}, shape ({sizes}), strides ({steps})")
        return TensorRef(storage, offset, shape, strides)

    @staticmethod
    def _require(value: Any, kind: type[Any]) -> Any:
        if type(value) is not kind:
            raise ValueError(f"a {type(value).__name__} is where a {kind.__name__} should be")
        return value

    @staticmethod
    def _key(key: Any) -> Any:
        if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < _MAX_SIZE):
            raise ValueError(f"a dict has {_shown(key)} as a key, expected a str")
        return key


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_SIZE


def _shown(value: object) -> str:
    """A value that nothing is known of, for a message. Only numbers and texts are written out: tuples that the memo
    puts into one another have representations of any size and depth.
    """
    return _cut(repr(value)) if isinstance(value, str | int) else f"a {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _push(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push_argument(make())


def _tuple_of(length: int) -> Callable[[_Machine, Any], None]:
    def handler(machine: _Machine, _: Any) -> None:
        values = [machine.pop() for _ in range(length)]
        machine.push_argument(tuple(values[::-1]))

    return handler


_PUSHED = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _Machine.ignore),
    **dict.fromkeys(_PUSHED, _Machine.push_argument),
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "EMPTY_DICT": _push(dict),
    "EMPTY_LIST": _push(list),
    "EMPTY_TUPLE": _push(tuple),
    "MARK": _Machine.push_mark,
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.stack_name,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.memoize),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
    "REDUCE": _Machine.reduce,
}
