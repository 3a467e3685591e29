"""Pickles what users pass: functions by value where a worker can't import them, and what else everyday scripts hold."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import pickle
import sys
import sysconfig
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

_MAX_DEPTH = 12
_registry_lock = threading.Lock()
_INSTALLED = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib"))


def dumps(value: object, by_value: Collection[str] = ()) -> bytes:
    """Return a pickled value.

    Functions and classes are pickled by reference, except for those of `__main__` and of the modules in `by_value`.

    Args:
        value: the value.
        by_value: names of imported modules, with all modules below them, that the reader can't import.
    """
    with _registered(by_value), io.BytesIO() as buffer:
        _Pickler(buffer).dump(value)
        return buffer.getvalue()


def dumps_with_code(value: object, by_value: Collection[str] = ()) -> tuple[bytes, bool]:
    """Return a pickled value as `dumps` does, and whether Python's code is in it, which only its own version reads."""
    with _registered(by_value), io.BytesIO() as buffer:
        pickler = _Pickler(buffer)
        pickler.dump(value)
        return buffer.getvalue(), pickler.has_code


def is_sent_by_value(module: str) -> bool:
    """Return whether a module can be sent to a worker that lacks it: it is the user's own, and imported here."""
    source = _source_of(sys.modules.get(module))
    if source is None or module.partition(".")[0] == "ray_pipeline_core":
        return False
    is_installed = any(source.is_relative_to(folder) for folder in _INSTALLED)
    return not is_installed and not {"site-packages", "dist-packages"} & set(source.parts)


def _source_of(module: ModuleType | None) -> Path | None:
    """Return the file of a module in Python, or the folder of a package without `__init__.py`; None for others."""
    try:
        file, folders = getattr(module, "__file__", None), list(getattr(module, "__path__", None) or ())
    except Exception:  # noqa: BLE001 - what libraries register as modules may be anything, and import when it is looked at
        return None
    if isinstance(file, str):
        return Path(file).resolve() if file.endswith(".py") else None
    return Path(folders[0]).resolve() if file is None and folders and isinstance(folders[0], str) else None


@contextlib.contextmanager
def _registered(modules: Collection[str]) -> Iterator[None]:
    """Let cloudpickle take these modules by value within the block; its registry belongs to the whole process."""
    with _registry_lock:
        new = sorted(set(modules) - cloudpickle.list_registry_pickle_by_value())
        for name in new:
            cloudpickle.register_pickle_by_value(sys.modules[name])
        try:
            yield
        finally:
            for name in new:
                cloudpickle.unregister_pickle_by_value(sys.modules[name])


def module_not_importable(packed: bytes | memoryview) -> str | None:
    """Return the module because of which a pickled value can't be read here; None if there is another reason.

    It is missing, raises an exception when it is imported, or is another one of the same name.
    """
    with io.BytesIO(packed) as file:
        unpickler = _Unpickler(file)
        try:
            unpickler.load()
        except ModuleNotFoundError as error:
            return unpickler.failed_module or error.name
        except Exception:  # noqa: BLE001 - a user's module may raise anything
            return unpickler.failed_module
    return None


class _Unpickler(pickle.Unpickler):
    failed_module: str | None = None

    def find_class(self, module: str, name: str) -> Any:
        """Find what is pickled by reference, and remember the module if that is impossible."""
        try:
            return super().find_class(module, name)
        except Exception:
            self.failed_module = module
            raise


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    has_code = False

    def reducer_override(self, value: Any) -> Any:
        """Return how to rebuild what neither pickle nor cloudpickle can take apart."""
        if isinstance(value, CodeType):
            self.has_code = True
            return _code, (self.dispatch_table[CodeType](value)[1], value.co_filename)
        if type(value) is functools.cached_property:
            return _cached_property, (value.func, value.attrname)
        if isinstance(value, functools._lru_cache_wrapper) and has_no_name(value):
            return _cached_function, (value.__wrapped__, value.cache_parameters())
        if _is_loguru_logger(value):
            return _loguru_logger, (vars(value)["_options"],)
        return super().reducer_override(value)


def has_no_name(value: object) -> bool:
    """Return whether a reader can't import a function or class by its name, because of its module or its place."""
    parents = itertools.accumulate(str(value.__module__).split("."), "{}.{}".format)
    if {"__main__", *cloudpickle.list_registry_pickle_by_value()} & set(parents):
        return True
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - nothing has its name, or what has its name is another one
        return True
    return False


def _is_loguru_logger(value: object) -> bool:
    return type(value).__name__ == "Logger" and type(value).__module__ == "loguru._logger"


def _code(arguments: tuple[Any, ...], file_name: str) -> CodeType:
    """Rebuild code with the name of its file, which tracebacks show; cloudpickle leaves it out from 3.1.3 on."""
    return CodeType(*arguments).replace(co_filename=file_name)


def _cached_property(function: Callable[..., Any], name: str | None) -> functools.cached_property[Any]:
    """Rebuild a cached property; before Python 3.12 it has a lock, which can't be pickled."""
    rebuilt = functools.cached_property(function)
    rebuilt.attrname = name
    return rebuilt


def _cached_function(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _loguru_logger(options: tuple[Any, ...]) -> Any:
    """Return the logger of this process with the options of another one: files and handlers stay where they are."""
    from loguru import logger

    kind: Any = type(logger)
    return kind(logger._core, *options)  # type: ignore[attr-defined]


def unpicklable_part(value: object, name: str, by_value: Collection[str] = ()) -> tuple[str, Exception] | None:
    """Return the innermost part of a value that can't be pickled, by its path, and why; None if all of it can.

    Args:
        value: the value.
        name: what the path begins with.
        by_value: as in `dumps`.
    """
    error = _error_of(value, by_value)
    return None if error is None else _innermost(value, name, error, by_value, [])


def _innermost(
    value: object, path: str, error: Exception, by_value: Collection[str], seen: list[object]
) -> tuple[str, Exception]:
    seen.append(value)
    for part_path, part in _parts(value, path) if len(seen) <= _MAX_DEPTH else ():
        if any(part is each for each in seen):
            continue
        part_error = _error_of(part, by_value)
        if part_error is not None:
            return _innermost(part, part_path, part_error, by_value, seen)
    return path, error


def _error_of(value: object, by_value: Collection[str]) -> Exception | None:
    try:
        dumps(value, by_value)
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        return error
    return None


def _parts(value: Any, path: str) -> Iterator[tuple[str, object]]:
    """Yield what a value holds, with the paths of the parts."""
    if isinstance(value, Mapping):
        yield from ((f"{path}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from ((f"{path}.{name}", getattr(value, name)) for name in ("func", "args", "keywords"))
    elif isinstance(value, FunctionType):
        yield from _captured(value, path)
    elif not isinstance(value, type | ModuleType):
        yield from ((f"{path}.{name}", item) for name, item in getattr(value, "__dict__", {}).items())
        yield from _methods(type(value), path)


def _methods(kind: type, path: str) -> Iterator[tuple[str, object]]:
    """Yield the methods of a class that is sent by value."""
    if not cloudpickle.cloudpickle._should_pickle_by_reference(kind):
        functions = ((name, member) for name, member in vars(kind).items() if isinstance(member, FunctionType))
        yield from ((f"{path}.{name}", member) for name, member in functions)


def _captured(function: FunctionType, path: str) -> Iterator[tuple[str, object]]:
    """Yield the defaults, closure and globals of a function that is sent by value."""
    code, defaults = function.__code__, function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it has no value yet
            yield f"{name}, which {path} uses", cell.cell_contents
    for name in code.co_names:
        if name in function.__globals__:
            yield f"{name}, which {path} uses", function.__globals__[name]
