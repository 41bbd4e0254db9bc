"""What a pickle of tensors says, found without unpickling.

A pickle is a program for a small stack machine, and one that calls whatever it names: opening a stranger's with
`pickle` runs their code. This is a machine that can build tuples, lists, dicts and descriptions of tensors, and
nothing else. It calls nothing; a name or an operation that it does not know ends it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from checkpoints.formats.header import are_sizes

# torch's storage types, by safetensors' name of what they hold.
STORAGES = {
    "torch DoubleStorage": "F64",
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}
ORDERED_DICT = "collections OrderedDict"
TENSOR = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
KNOWN = {ORDERED_DICT, TENSOR, PARAMETER, *STORAGES}


class PickleError(Exception):
    """The pickle holds something else than tensors by name.

    Args:
        code, values: of the problem that says what
    """

    def __init__(self, code: str, **values: Any):
        super().__init__(code, values)
        self.code = code
        self.values = values


@dataclass(frozen=True)
class Name:
    """A name that a pickle would import: module, a space, attribute."""

    name: str


@dataclass(frozen=True)
class PickledStorage:
    """A run of elements, stored beside the pickle under a key."""

    dtype: str
    key: str
    elements: int


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage: offset and strides count elements."""

    storage: PickledStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            # The stride of an axis of one element says nothing.
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


def read_pickle(data: bytes) -> Any:
    """What a pickle describes: numbers, strings, tuples, lists, dicts, and tensors as `PickledTensor`.

    Raises:
        PickleError: it is damaged, or asks for anything else.
    """
    machine = _Machine()
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name == "STOP":
                return machine.stack.pop()
            machine.do(operation.name, argument)
    except PickleError:
        raise
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise PickleError("pickle-damaged", error=type(error).__name__) from error
    raise PickleError("pickle-endless")


_MARK = object()
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_ARGUMENTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING_TO_DO = {"PROTO", "FRAME"}


class _Machine:
    """The stack and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def do(self, operation: str, argument: Any) -> None:
        if operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation]())
        elif operation in _ARGUMENTS:
            self.stack.append(argument)
        elif operation in _TUPLES:
            self.stack.append(tuple(self.pop(_TUPLES[operation])))
        elif operation not in _NOTHING_TO_DO:
            method = getattr(self, f"do_{operation.lower()}", None)
            if method is None:
                raise PickleError("pickle-operation", name=operation)
            method(argument)

    def pop(self, count: int) -> list[Any]:
        taken = [self.stack.pop() for _ in range(count)]
        return taken[::-1]

    def pop_to_mark(self) -> list[Any]:
        taken = []
        while (item := self.stack.pop()) is not _MARK:
            taken.append(item)
        return taken[::-1]

    def do_tuple(self, _: None) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def do_append(self, _: None) -> None:
        item = self.stack.pop()
        _expect(self.stack[-1], list).append(item)

    def do_appends(self, _: None) -> None:
        items = self.pop_to_mark()
        _expect(self.stack[-1], list).extend(items)

    def do_setitem(self, _: None) -> None:
        key, value = self.pop(2)
        _expect(self.stack[-1], dict)[_expect(key, str)] = value

    def do_setitems(self, _: None) -> None:
        items = self.pop_to_mark()
        keys = [_expect(key, str) for key in items[::2]]
        _expect(self.stack[-1], dict).update(zip(keys, items[1::2], strict=True))

    def do_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    do_long_binput = do_binput

    def do_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    do_long_binget = do_binget

    def do_global(self, name: str) -> None:
        if name not in KNOWN:
            raise PickleError("pickle-import", name=name.replace(" ", "."))
        self.stack.append(Name(name))

    def do_stack_global(self, _: None) -> None:
        self.do_global(" ".join(self.pop(2)))

    def do_binpersid(self, _: None) -> None:
        kind, storage, key, _, elements = self.stack.pop()
        if kind != "storage":
            raise PickleError("pickle-reference", name=kind if isinstance(kind, str) else type(kind).__name__)
        if not are_sizes([elements]):
            raise PickleError("pickle-place")
        dtype = STORAGES[_expect(storage, Name).name]
        self.stack.append(PickledStorage(dtype, _expect(key, str), elements))

    def do_reduce(self, _: None) -> None:
        function, arguments = self.pop(2)
        name = _expect(function, Name).name
        if name == ORDERED_DICT and arguments == ():
            self.stack.append({})
        elif name == TENSOR:
            storage, offset, shape, strides, *_ = arguments
            if not are_sizes([offset, *shape, *strides]) or len(shape) != len(strides):
                raise PickleError("pickle-place")
            _expect(storage, PickledStorage)
            self.stack.append(PickledTensor(storage, offset, tuple(shape), tuple(strides)))
        elif name == PARAMETER:
            self.stack.append(_expect(arguments[0], PickledTensor))
        else:
            raise PickleError("pickle-call", name=name.replace(" ", "."))

    def do_build(self, _: None) -> None:
        """A state dict carries its modules' versions as an attribute, which are not needed here."""
        self.stack.pop()
        _expect(self.stack[-1], dict)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise PickleError("pickle-type", found=type(value).__name__, expected=kind.__name__)
    return value
