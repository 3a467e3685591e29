"""The functions, classes and constants of some packages, by their names."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Scope:
    """Where an expression is found, and so what the names in it mean.

    Attributes:
        path: the module's path.
        module: the module.
        function: the function around the expression; None at module level.
        outer: the scope around that function.
        bindings: the texts of names that are known from the call, such as those of parameters.
    """

    path: str
    module: ast.Module
    function: Function | None = None
    outer: Scope | None = None
    bindings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def bound(self, bindings: Mapping[str, tuple[str, ...]]) -> Scope:
        """Return the same scope with the texts of more names."""
        return replace(self, bindings={**self.bindings, **bindings}) if bindings else self


@dataclass(frozen=True)
class FunctionSource:
    """A function of the packages.

    Attributes:
        node: its definition.
        scope: the scope of its body.
        is_method: whether it is defined in a class.
    """

    node: Function
    scope: Scope
    is_method: bool


class SourceIndex:
    """Everything that the modules of some packages define.

    Args:
        root: the folder of the packages.
        packages: their names.

    Attributes:
        calls: every call, with its scope.
        functions: functions by name, wherever they are defined.
        classes: classes by name.
    """

    def __init__(self, root: Path, packages: Sequence[str]) -> None:
        self.calls: list[tuple[ast.Call, Scope]] = []
        self.functions: dict[str, list[FunctionSource]] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self._statements: list[tuple[ast.stmt, Scope]] = []
        self._constants: dict[str, list[tuple[ast.expr, Scope]]] = {}
        self._imports: dict[str, set[str]] = {}
        for package in packages:
            for path in sorted((root / package).rglob("*.py")):
                module = ast.parse(path.read_text(encoding="utf-8"))
                scope = Scope(str(path.relative_to(root)), module)
                self._add_constants(scope)
                self._visit(module, scope, in_class=False)

    def _add_constants(self, scope: Scope) -> None:
        for statement in scope.module.body:
            for name, value in _assigned(statement):
                self._constants.setdefault(name, []).append((value, scope))

    def _visit(self, node: ast.AST, scope: Scope, in_class: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                self.calls.append((child, scope))
            elif isinstance(child, ast.stmt):
                self._statements.append((child, scope))
            if isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    self._imports.setdefault(alias.asname or alias.name, set()).add(child.module or "")
            if isinstance(child, ast.ClassDef):
                self.classes[child.name] = child
            if isinstance(child, Function):
                inner = Scope(scope.path, scope.module, child, scope)
                self.functions.setdefault(child.name, []).append(FunctionSource(child, inner, in_class))
                self._visit(child, inner, in_class=False)
            else:
                self._visit(child, scope.bound(_loop_names(child)), in_class=isinstance(child, ast.ClassDef))

    def constant(self, name: str, scope: Scope) -> tuple[ast.expr, Scope] | None:
        """Return the value of a constant: the module's own, else that of the only other module that defines one."""
        found = self._constants.get(name, [])
        own = [one for one in found if one[1].path == scope.path]
        return own[0] if own else found[0] if len(found) == 1 else None

    def imported_from(self, name: str) -> set[str]:
        """Return the modules that the packages import `name` from."""
        return self._imports.get(name, set())

    def attribute_values(self, attribute: str) -> list[tuple[ast.expr, Scope]]:
        """Return what is assigned to attributes of this name, anywhere."""
        return [
            (value, scope)
            for statement, scope in self._statements
            for name, value in _assigned(statement, attributes=True)
            if name == attribute
        ]

    def bases(self, name: str) -> list[str]:
        """Return the names of all classes that the class `name` derives from, as far as the packages define them."""
        node = self.classes.get(name)
        direct = [last_name(base) for base in node.bases] if node is not None else []
        return [*direct, *(further for base in direct for further in self.bases(base))]

    def is_error(self, name: str) -> bool:
        """Return whether `name` is an exception: one of the packages', Python's or an imported one."""
        if name in self.classes:
            return any(_is_builtin_error(base) or base.endswith("Exception") for base in self.bases(name))
        return _is_builtin_error(name) or (name.endswith(("Error", "Exception")) and bool(self.imported_from(name)))


def _is_builtin_error(name: str) -> bool:
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, BaseException)


def last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _assigned(statement: ast.stmt, attributes: bool = False) -> Iterator[tuple[str, ast.expr]]:
    """Return the names (or attributes) that a statement assigns to, each with its value."""
    kind = ast.Attribute if attributes else ast.Name
    if isinstance(statement, ast.AnnAssign) and statement.value is not None and isinstance(statement.target, kind):
        yield last_name(statement.target), statement.value
    if not isinstance(statement, ast.Assign):
        return
    for target in statement.targets:
        if isinstance(target, kind):
            yield last_name(target), statement.value
        elif isinstance(target, ast.Tuple):
            yield from _unpacked(target, statement.value, kind)


def _unpacked(target: ast.Tuple, value: ast.expr, kind: type[ast.expr]) -> Iterator[tuple[str, ast.expr]]:
    for index, part in enumerate(target.elts):
        if isinstance(part, kind):
            yield last_name(part), ast.Subscript(value, ast.Constant(index), ast.Load())


def _loop_names(node: ast.AST) -> dict[str, tuple[str, ...]]:
    """Return the texts of a loop's variable, where the loop is over constants."""
    if not (isinstance(node, ast.For) and isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Tuple)):
        return {}
    elements = [element.value for element in node.iter.elts if isinstance(element, ast.Constant)]
    return {node.target.id: tuple(map(str, elements))} if len(elements) == len(node.iter.elts) else {}


@cache
def nodes_of(node: ast.AST) -> tuple[ast.AST, ...]:
    """Return the node and all below it, kept since they are asked for over and over."""
    return tuple(ast.walk(node))


@cache
def local_values(function: Function, name: str) -> tuple[list[ast.expr], bool]:
    """Return the values that a function gives one of its names.

    Returns:
        The values, and whether there are others that can't be told, as for the target of a loop.
    """
    values: list[ast.expr] = []
    is_open = name in parameter_names(function)
    for node in nodes_of(function):
        if isinstance(node, ast.stmt):
            values += [value for assigned, value in _assigned(node) if assigned == name]
        is_open = is_open or name in _other_targets(node)
    return values, is_open


def _other_targets(node: ast.AST) -> set[str]:
    """Return the names that a loop, an exception handler or the like gives values that are not looked at."""
    if isinstance(node, ast.For | ast.comprehension):
        return {part.id for part in ast.walk(node.target) if isinstance(part, ast.Name)}
    if isinstance(node, ast.AugAssign | ast.NamedExpr):
        return {last_name(node.target)}
    return {node.name} if isinstance(node, ast.ExceptHandler) and node.name else set()


def parameter_names(function: Function) -> list[str]:
    """Return the names of a function's parameters that arguments can be given for, in order."""
    arguments = function.args
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def default_of(function: Function, parameter: str) -> ast.expr | None:
    """Return the default of a parameter; None when it has none."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = dict(zip([one.arg for one in reversed(positional)], reversed(arguments.defaults), strict=False))
    defaults |= {
        one.arg: default
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    }
    return defaults.get(parameter)


def collected_into(node: ast.AST, name: str, attribute: bool = False) -> tuple[list[ast.expr], list[ast.expr]]:
    """Return what is put into the list `name`, or `x.name` for an attribute: by `append`, and by `extend`."""
    kind = ast.Attribute if attribute else ast.Name
    appended: list[ast.expr] = []
    extended: list[ast.expr] = []
    for call in nodes_of(node):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
            continue
        if isinstance(call.func.value, kind) and last_name(call.func.value) == name:
            appended += call.args if call.func.attr == "append" else []
            extended += call.args if call.func.attr == "extend" else []
    return appended, extended
