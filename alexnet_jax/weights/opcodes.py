"""Read a pickle as data: `pickletools` lists its opcodes, and a few of them are understood here.

No global is looked up and nothing is called, so nothing in a pickle can run. The contents of
PyTorch's state dicts become dicts, tuples, numbers, and the types below; the objects that
checkpoints hold beside them, such as an argparse.Namespace, become `Unsupported`.
"""

import io
import pickletools
from typing import Any, NamedTuple

import ml_dtypes

from alexnet_jax.errors import BadInput

ADVICE = 'save only the weights: torch.save(model.state_dict(), FILE)'

DTYPES: dict[str, Any] = {
    'torch FloatStorage': '<f4',
    'torch DoubleStorage': '<f8',
    'torch HalfStorage': '<f2',
    'torch BFloat16Storage': ml_dtypes.bfloat16,
    'torch LongStorage': '<i8',  # BatchNorm's num_batches_tracked
}
ALLOWED = ', '.join(name.split()[1] for name in DTYPES)
# Others may be in a checkpoint beside the weights, such as the state of a generator.
STORAGES: dict[str, Any] = {
    **DTYPES,
    'torch ByteStorage': 'u1',
    'torch CharStorage': 'i1',
    'torch ShortStorage': '<i2',
    'torch IntStorage': '<i4',
    'torch BoolStorage': '?',
}
ORDERED_DICT = 'collections OrderedDict'
REBUILD = ('torch._utils _rebuild_tensor_v2', 'torch._utils _rebuild_tensor')
PARAMETER = 'torch._utils _rebuild_parameter'


class _Global(NamedTuple):
    """A name that unpickling would import."""

    name: str


class Storage(NamedTuple):
    """Numbers that are stored elsewhere in the file; `kind` is one of the names above."""

    kind: str
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Unsupported(NamedTuple):
    """What unpickling would have to call something for.

    Attributes:
      reason: A sentence for the user who needs it.
      parts: What it would be made of: arguments, state and items.
    """

    reason: str
    parts: list[Any]


class _Mark:
    """What MARK puts on the stack."""


def read_pickle(data: bytes) -> tuple[Any, int]:
    """Return the value of a pickle, in plain types and those above, and its size in bytes.

    Raises:
      BadInput: It has something that no state dict or checkpoint has.
      Exception: It is damaged; of many types.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def pop_mark() -> list[Any]:
        place = len(stack) - 1
        while stack[place] is not _Mark:  # ends in an IndexError if there is none
            place -= 1
        found = stack[place + 1 :]
        del stack[place:]
        return found

    file = io.BytesIO(data)
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case 'PROTO' | 'FRAME':
                pass
            case 'MARK':
                stack.append(_Mark)
            case 'NONE':
                stack.append(None)
            case 'NEWTRUE':
                stack.append(True)
            case 'NEWFALSE':
                stack.append(False)
            case 'BININT' | 'BININT1' | 'BININT2' | 'LONG1' | 'BINFLOAT' | 'BINUNICODE':
                stack.append(argument)
            case 'SHORT_BINUNICODE' | 'SHORT_BINSTRING' | 'BINSTRING':  # Python 2's str
                stack.append(argument)
            case 'GLOBAL':
                stack.append(_Global(argument))
            case 'STACK_GLOBAL':
                name, module = _of(str, stack.pop()), _of(str, stack.pop())
                stack.append(_Global(f'{module} {name}'))
            case 'EMPTY_DICT':
                stack.append({})
            case 'EMPTY_LIST':
                stack.append([])
            case 'EMPTY_TUPLE':
                stack.append(())
            case 'TUPLE':
                stack.append(tuple(pop_mark()))
            case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                size = int(opcode.name[-1])
                found = tuple(stack[-size:])
                del stack[-size:]
                stack.append(found)
            case 'APPEND':
                item = stack.pop()
                _extend(stack[-1], [item])
            case 'APPENDS':
                items = pop_mark()
                _extend(stack[-1], items)
            case 'SETITEM':
                item, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, item])
            case 'SETITEMS':
                items = pop_mark()
                _set_items(stack[-1], items)
            case 'BINPUT' | 'LONG_BINPUT':
                memo[argument] = stack[-1]
            case 'MEMOIZE':
                memo[len(memo)] = stack[-1]
            case 'BINGET' | 'LONG_BINGET':
                stack.append(memo[argument])
            case 'BINPERSID':
                stack.append(_storage(stack.pop()))
            case 'REDUCE':
                arguments, function = stack.pop(), stack.pop()
                stack.append(_reduced(function, arguments))
            case 'BUILD':
                state = stack.pop()
                if isinstance(stack[-1], Unsupported):
                    stack[-1].parts.append(state)
                else:  # a state dict has an attribute, `_metadata`, which is not needed
                    _of(dict, stack[-1])
            case 'STOP':
                return stack.pop(), file.tell()
            case 'NEWOBJ':
                arguments, kind = stack.pop(), stack.pop()
                reason = f'it is a whole module, {_name(kind)}; {ADVICE}'
                stack.append(Unsupported(reason, [arguments]))
            case name:
                raise BadInput(f'its pickle has {name}, which no state dict has; {ADVICE}')
    raise ValueError('its pickle does not end')


def _of(kind: type, value: Any) -> Any:
    """Return the value, which must be of a type."""
    if not isinstance(value, kind):
        raise BadInput(f'its pickle has a {type(value).__name__} instead of a {kind.__name__}')
    return value


def _extend(target: Any, items: list[Any]) -> None:
    (target.parts if isinstance(target, Unsupported) else _of(list, target)).extend(items)


def _set_items(target: Any, items: list[Any]) -> None:
    if isinstance(target, Unsupported):
        target.parts.extend(items)
        return
    for key, item in zip(items[::2], items[1::2], strict=True):
        # The hash of nested tuples could take forever.
        if not isinstance(key, str | int):
            raise ValueError(f'a dict has a key that is a {type(key).__name__}')
        _of(dict, target)[key] = item


def _storage(identifier: Any) -> Storage:
    """Return the storage that a persistent id refers to."""
    match identifier:
        case ('storage', _Global(name), str(key), _, int(size)) if size >= 0:
            pass
        case ('storage', _Global(name), str(key), _, int(size), None) if size >= 0:
            pass
        case ('module', _Global() as module, *_):
            raise BadInput(f'it is a whole module, {_name(module)}; {ADVICE}')
        case _:
            raise BadInput(f'its pickle refers to something other than numbers; {ADVICE}')
    if name not in STORAGES:
        raise BadInput(f'its numbers are a {name[:80]}; allowed: {ALLOWED}')
    return Storage(name, key, size)


def _reduced(function: Any, arguments: Any) -> Any:
    """Return what calling one of four functions would; no other function is supported."""
    match function, arguments:
        case _Global(name), () if name == ORDERED_DICT:
            return {}
        case _Global(name), [list() as pairs] if name == ORDERED_DICT:  # Python 2 passed the items
            found = {}
            for pair in pairs:
                key, item = _of(list, pair)
                _set_items(found, [key, item])
            pairs.clear()  # a hostile pickle could pass them again and again, at two bytes a time
            return found
        case _Global(name), [Storage(), int(), tuple(), tuple(), *_] if name in REBUILD:
            return Tensor(*arguments[:4])
        case _Global(name), [Tensor() as tensor, *_] if name == PARAMETER:
            return tensor
    reason = f'it would call {_name(function)}, which no state dict does; {ADVICE}'
    return Unsupported(reason, [arguments])


def _name(value: Any) -> str:
    """Return what a pickle names, as Python would write it."""
    return value.name[:80].replace(' ', '.') if isinstance(value, _Global) else 'something unnamed'
