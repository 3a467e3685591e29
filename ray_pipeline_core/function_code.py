"""What a function does that is sent to the workers by value: a digest of its code, and the values that it captured."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

CODE = f"code (Python {sys.version_info.major}.{sys.version_info.minor})"
"""The name of a digest of code; every Python version has bytecode of its own, so digests of two are not compared."""
_DIGEST_LENGTH = 12


def is_pickled_by_value(value: object) -> bool:
    """Return whether a function or class is sent as code instead of by name, as those of scripts and notebooks are."""
    if not isinstance(value, FunctionType | type):
        return False
    from ray_pipeline_core.pickling import has_no_name

    return has_no_name(value)


def functions_by_value(step: object) -> list[FunctionType]:
    """Return a step itself if it is a function by value, or the methods of those of its classes that are by value."""
    return _functions_of(step if isinstance(step, FunctionType) else type(step))


def _functions_of(value: object) -> list[FunctionType]:
    """Return what is by value of a function, or of the methods of a class and its bases."""
    if isinstance(value, FunctionType):
        return [value] if is_pickled_by_value(value) else []
    if not isinstance(value, type):
        return []
    classes = filter(is_pickled_by_value, value.__mro__)
    members = (member for each in classes for _, member in sorted(vars(each).items()))
    return [function for member in members for function in _unwrapped(member) if is_pickled_by_value(function)]


def _unwrapped(member: Any) -> list[FunctionType]:
    """Return the functions that a member of a class consists of."""
    functions: list[Any] = [member]
    if isinstance(member, property):
        functions = [member.fget, member.fset, member.fdel]
    elif isinstance(member, functools.cached_property):
        functions = [member.func]
    elif isinstance(member, staticmethod | classmethod):
        functions = [member.__func__]
    return [function for function in functions if isinstance(function, FunctionType)]


def code_digest(functions: Iterable[FunctionType]) -> str:
    """Return a digest of the code of functions and of what is by value that they use, the same in every process."""
    found = _with_called(functions)
    described = repr([_describe_code(each.__code__, each.__doc__) for each in found])
    return hashlib.sha256(described.encode(errors="backslashreplace")).hexdigest()[:_DIGEST_LENGTH]


def captured_values(functions: Iterable[FunctionType]) -> dict[str, Any]:
    """Return the values that are sent along with functions, by name: defaults, closures, and globals that they use.

    Modules are left out, and so are functions and classes by value, which belong to the digest.
    """
    values: dict[str, Any] = {}
    for each in _with_called(functions):
        values |= {f"captured {name}": value for name, value in _captured(each) if not isinstance(value, ModuleType)}
    return {name: value for name, value in values.items() if not is_pickled_by_value(value)}


def _with_called(functions: Iterable[FunctionType]) -> list[FunctionType]:
    found: dict[FunctionType, None] = {}
    waiting = list(functions)
    while waiting:
        function = waiting.pop(0)
        if function not in found:
            found[function] = None
            waiting += (called for _, value in _captured(function) for called in _functions_of(value))
    return list(found)


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
