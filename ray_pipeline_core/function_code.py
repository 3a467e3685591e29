"""What a function does that is sent to the workers by value: a digest of its code, and the values that it captured."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

CODE = f"code (Python {sys.version_info.major}.{sys.version_info.minor})"
"""The name of a digest of code; every Python version has bytecode of its own, so digests of two are not compared."""
_DIGEST_LENGTH = 12


def is_pickled_by_value(function: object) -> bool:
    """Return whether a function is sent as code instead of by name: a lambda, or one of a script or a notebook."""
    if not isinstance(function, FunctionType):
        return False
    import cloudpickle

    module = f"{function.__module__}."
    if any(module.startswith(f"{name}.") for name in ("__main__", *cloudpickle.list_registry_pickle_by_value())):
        return True
    try:
        pickle.dumps(function)
    except Exception:  # noqa: BLE001 - nothing has its name, or what has its name is another function
        return True
    return False


def code_digest(function: FunctionType) -> str:
    """Return a digest of a function's code and of the functions by value that it calls, the same in every process."""
    found: dict[FunctionType, None] = {}
    _add_functions(function, found)
    described = repr([_describe_code(each.__code__, each.__doc__) for each in found])
    return hashlib.sha256(described.encode(errors="backslashreplace")).hexdigest()[:_DIGEST_LENGTH]


def captured_values(function: FunctionType) -> dict[str, Any]:
    """Return the values that are sent along with a function, by name: defaults, closure, and globals that it uses.

    Modules are left out, and so are functions by value, which belong to the digest.
    """
    found: dict[FunctionType, None] = {}
    _add_functions(function, found)
    values: dict[str, Any] = {}
    for each in found:
        values |= {f"captured {name}": value for name, value in _captured(each) if not isinstance(value, ModuleType)}
    return {name: value for name, value in values.items() if not is_pickled_by_value(value)}


def _add_functions(function: FunctionType, found: dict[FunctionType, None]) -> None:
    if function in found:
        return
    found[function] = None
    for _, value in _captured(function):
        if isinstance(value, FunctionType) and is_pickled_by_value(value):
            _add_functions(value, found)


def _captured(function: FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    defaults = function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it has no value yet
            continue
    for name in sorted(_global_names(code)):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _global_names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_global_names, inner))


def _describe_code(code: CodeType, doc: str | None = None) -> Any:
    """Return what decides what the code does: neither its file and lines, nor its docstring."""
    constants = [_describe_constant(constant) for constant in code.co_consts if doc is None or constant != doc]
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return code.co_argcount, code.co_kwonlyargcount, code.co_flags, code.co_code, constants, names


def _describe_constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _describe_code(constant)
    if isinstance(constant, frozenset):  # its order differs from process to process
        return sorted(map(repr, constant))
    if isinstance(constant, tuple):
        return [_describe_constant(item) for item in constant]
    return repr(constant)
