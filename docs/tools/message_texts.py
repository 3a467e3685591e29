"""What an expression may say: its texts, with `{name}` for what is known only at run time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import product

from docs.tools.source_index import (
    FunctionSource,
    Scope,
    SourceIndex,
    collected_into,
    default_of,
    last_name,
    local_values,
    parameter_names,
)

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_WORD = re.compile(r"[^\W\d_]+")
_DIRECTIVE = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?([sdrgf%])")
_SENTENCE_WORDS = 3
"""A placeholder that can say one of several things is written out if one of them has this many words."""
_DEEPEST = 40
_STRING_METHODS = {"decode", "encode", "strip", "removeprefix", "removesuffix", "lower"}


def literal_words(text: str) -> list[str]:
    """Return the words of a text outside its placeholders."""
    return _WORD.findall(_PLACEHOLDER.sub(" ", text))


def _has_literals(text: str) -> bool:
    return re.search(r"\w", _PLACEHOLDER.sub("", text)) is not None


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


class MessageTexts:
    """Evaluates expressions as far as their source tells what they say.

    Args:
        index: the source.
    """

    def __init__(self, index: SourceIndex) -> None:
        self._index = index
        self._active: list[object] = []

    def of(self, node: ast.expr, scope: Scope) -> tuple[str, ...]:
        """Every text that the expression may stand for; fields of records such as diagnoses go together."""
        scopes = [scope.bound(record) for record in self._records(node, scope)] or [scope]
        return _unique(text for one in scopes for text in self._texts(node, one))

    def of_log_call(self, call: ast.Call, scope: Scope) -> tuple[str, ...]:
        """Return the texts of a call of a logger, with the arguments in the places of `%s`."""
        template = call.args[0]
        if not (isinstance(template, ast.Constant) and isinstance(template.value, str)):
            return self.of(template, scope)
        arguments = iter(call.args[1:])
        parts: list[tuple[str, ...]] = []
        for position, part in enumerate(_DIRECTIVE.split(template.value)):
            is_directive = position % 2 == 1 and part != "%"
            argument = next(arguments, None) if is_directive else None
            parts.append(self._inline(argument, scope) if argument is not None else (part,))
        return _unique(map("".join, product(*parts)))

    # --- texts ---

    def _texts(self, node: ast.expr, scope: Scope) -> tuple[str, ...]:
        method = getattr(self, f"_texts_of_{type(node).__name__}", None)
        if method is None or node in self._active or len(self._active) > _DEEPEST:
            return (_placeholder(node),)
        self._active.append(node)
        try:
            return _unique(method(node, scope)) or (_placeholder(node),)
        finally:
            self._active.pop()

    def _texts_of_Constant(self, node: ast.Constant, scope: Scope) -> Iterator[str]:
        yield str(node.value)

    def _texts_of_JoinedStr(self, node: ast.JoinedStr, scope: Scope) -> Iterator[str]:
        parts = [self._texts(part, scope) for part in node.values]
        yield from map("".join, product(*parts))

    def _texts_of_FormattedValue(self, node: ast.FormattedValue, scope: Scope) -> Iterator[str]:
        yield from self._inline(node.value, scope)

    def _texts_of_BinOp(self, node: ast.BinOp, scope: Scope) -> Iterator[str]:
        if isinstance(node.op, ast.Add):
            sides = (self._without_empty(side, scope) for side in (node.left, node.right))
            yield from map("".join, product(*sides))

    def _texts_of_IfExp(self, node: ast.IfExp, scope: Scope) -> Iterator[str]:
        yield from (text for choice in (node.body, node.orelse) for text in self._texts(choice, scope))

    def _texts_of_BoolOp(self, node: ast.BoolOp, scope: Scope) -> Iterator[str]:
        yield from (text for choice in node.values for text in self._texts(choice, scope))

    def _texts_of_Name(self, node: ast.Name, scope: Scope) -> Iterator[str]:
        if node.id in scope.bindings:
            yield from scope.bindings[node.id]
            return
        values, is_open, where = self._values_of_name(node.id, scope)
        for value in values:
            yield from self._texts(value, where)
        if is_open:
            yield _placeholder(node)

    def _texts_of_Attribute(self, node: ast.Attribute, scope: Scope) -> Iterator[str]:
        yield from scope.bindings.get(ast.unparse(node), ())

    def _texts_of_Subscript(self, node: ast.Subscript, scope: Scope) -> Iterator[str]:
        if isinstance(node.slice, ast.Slice):
            yield from self._texts(node.value, scope)
        elif isinstance(node.value, ast.Name):
            constant = self._index.constant(node.value.id, scope)
            if constant is not None and isinstance(constant[0], ast.Dict):
                yield from (text for value in constant[0].values for text in self._texts(value, constant[1]))

    def _texts_of_Tuple(self, node: ast.Tuple, scope: Scope) -> Iterator[str]:
        try:
            yield repr(ast.literal_eval(node))
        except ValueError:
            return

    def _texts_of_GeneratorExp(self, node: ast.GeneratorExp, scope: Scope) -> Iterator[str]:
        yield from self._texts(node.elt, scope)

    def _texts_of_Call(self, node: ast.Call, scope: Scope) -> Iterator[str]:
        name = last_name(node.func)
        if name == "join" and node.args:
            yield from self._joined(node, scope)
        elif name == "next" and len(node.args) == 2:
            yield from (*self._elements(node.args[0], scope), *self._texts(node.args[1], scope))
        elif name == "str" and node.args:
            yield from self._texts(node.args[0], scope)
        elif name in _STRING_METHODS and isinstance(node.func, ast.Attribute):
            yield from self._texts(node.func.value, scope)
        else:
            yield from self._returned(node)

    def _returned(self, node: ast.Call) -> Iterator[str]:
        texts = _unique(
            text
            for function in self._functions(node)
            for value, scope in self._returns(function)
            for text in self._texts(value, scope)
        )
        # A function such as `redact`, of which the source tells nothing, is named by what it is given.
        if any(map(_has_literals, texts)):
            yield from texts

    def _joined(self, node: ast.Call, scope: Scope) -> Iterator[str]:
        items = node.args[0]
        if isinstance(items, ast.Name):
            values, is_open, scope = self._values_of_name(items.id, scope)
            items = values[0] if len(values) == 1 and not is_open else items
        separator = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(items, ast.List) and items.elts and isinstance(separator, ast.Constant):
            yield str(separator.value).join(self._elements(item, scope, starred=True)[0] for item in items.elts)
            return
        elements = self._elements(node.args[0], scope)
        if any(map(_has_literals, elements)):
            yield from elements

    def _inline(self, node: ast.expr, scope: Scope) -> tuple[str, ...]:
        """Return what a placeholder shows: what it says where that is certain or a sentence, else its name."""
        texts = self._without_empty(node, scope)
        is_certain = len(texts) == 1 and _has_literals(texts[0])
        is_sentence = any(len(literal_words(text)) >= _SENTENCE_WORDS for text in texts)
        is_bound = isinstance(node, ast.Name) and node.id in scope.bindings
        is_listed = isinstance(node, ast.Name) and all(map(_has_literals, texts))
        return texts if is_certain or is_sentence or is_bound or is_listed else (_placeholder(node),)

    def _without_empty(self, node: ast.expr, scope: Scope) -> tuple[str, ...]:
        return tuple(text for text in self._texts(node, scope) if text) or ("",)

    # --- collections ---

    def elements(self, node: ast.expr, scope: Scope) -> tuple[str, ...]:
        """Return the texts of what a collection may hold."""
        return self._elements(node, scope)

    def _elements(self, node: ast.expr, scope: Scope, starred: bool = False) -> tuple[str, ...]:
        if starred and not isinstance(node, ast.Starred):
            return self._texts(node, scope)
        if isinstance(node, ast.Starred):
            node = node.value
        found = _unique(self._items(node, scope))
        return found or (_placeholder(node),)

    def _items(self, node: ast.expr, scope: Scope) -> Iterator[str]:
        key = (ast.dump(node), scope.path)
        if key in self._active:
            return
        self._active.append(key)
        try:
            for value, where, is_collection in self._parts(node, scope):
                yield from self._items(value, where) if is_collection else self._texts(value, where)
        finally:
            self._active.pop()

    def _parts(self, node: ast.expr, scope: Scope) -> Iterator[tuple[ast.expr, Scope, bool]]:
        """Return what a collection is made of: expressions, each with whether it is a collection itself."""
        if isinstance(node, ast.List | ast.Tuple):
            for item in node.elts:
                yield item.value if isinstance(item, ast.Starred) else item, scope, isinstance(item, ast.Starred)
        elif isinstance(node, ast.ListComp | ast.GeneratorExp):
            yield node.elt, scope, False
        elif isinstance(node, ast.IfExp):
            yield from ((choice, scope, True) for choice in (node.body, node.orelse))
        elif isinstance(node, ast.BoolOp):
            yield from ((choice, scope, True) for choice in node.values)
        else:
            yield from self._parts_by_name(node, scope)

    def _parts_by_name(self, node: ast.expr, scope: Scope) -> Iterator[tuple[ast.expr, Scope, bool]]:
        if isinstance(node, ast.Name) and scope.function is not None:
            yield from ((value, scope, True) for value in local_values(scope.function, node.id)[0])
            appended, extended = collected_into(scope.function, node.id)
            yield from ((value, scope, False) for value in appended)
            yield from ((value, scope, True) for value in extended)
        elif isinstance(node, ast.Attribute):
            yield from self._parts_of_attribute(node.attr)
        elif isinstance(node, ast.Call):
            for function in self._functions(node):
                yield from ((value, where, True) for value, where in self._returns(function))
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call):
            yield from self._parts_of_returned_tuple(node, node.value)

    def _parts_of_attribute(self, attribute: str) -> Iterator[tuple[ast.expr, Scope, bool]]:
        yield from ((value, scope, True) for value, scope in self._index.attribute_values(attribute))
        for functions in self._index.functions.values():
            for function in functions:
                appended, extended = collected_into(function.node, attribute, attribute=True)
                yield from ((value, function.scope, False) for value in appended)
                yield from ((value, function.scope, True) for value in extended)

    def _parts_of_returned_tuple(self, node: ast.Subscript, call: ast.Call) -> Iterator[tuple[ast.expr, Scope, bool]]:
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        for function in self._functions(call):
            for value, scope in self._returns(function):
                if isinstance(value, ast.Tuple) and isinstance(index, int) and index < len(value.elts):
                    yield value.elts[index], scope, True

    # --- names ---

    def _values_of_name(self, name: str, scope: Scope) -> tuple[list[ast.expr], bool, Scope]:
        """Return the values of a name, whether there may be others, and the scope they are in."""
        where: Scope | None = scope
        while where is not None and where.function is not None:
            values, is_open = local_values(where.function, name)
            default = default_of(where.function, name)
            if not values and isinstance(default, ast.Constant) and default.value and isinstance(default.value, str):
                return [default], False, where
            if values or is_open:
                return values, is_open, where
            where = where.outer
        constant = self._index.constant(name, scope)
        return ([constant[0]], False, constant[1]) if constant is not None else ([], True, scope)

    def _functions(self, node: ast.Call) -> list[FunctionSource]:
        """Return the functions that a call may mean: those of its name, methods for `x.name()`, others for `name()`."""
        found = self._index.functions.get(last_name(node.func), [])
        is_method = isinstance(node.func, ast.Attribute)
        return [one for one in found if one.is_method == is_method and one.node not in self._active]

    def _returns(self, function: FunctionSource) -> Iterator[tuple[ast.expr, Scope]]:
        self._active.append(function.node)
        try:
            for node in ast.walk(function.node):
                if isinstance(node, ast.Return) and node.value is not None:
                    yield node.value, function.scope
        finally:
            self._active.remove(function.node)

    def bind(self, call: ast.Call, scope: Scope, function: FunctionSource) -> Scope:
        """Return the scope of a function's body when it is called like this, with those parameters that have a text."""
        names = parameter_names(function.node)
        arguments = dict(zip(names, call.args, strict=False))
        arguments |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
        texts: dict[str, tuple[str, ...]] = {}
        for name in names:
            argument = arguments.get(name)
            default = default_of(function.node, name)
            if argument is not None:
                texts[name] = self._texts(argument, scope)
            elif isinstance(default, ast.Constant):
                texts[name] = (str(default.value),)
        known = {name: found for name, found in texts.items() if all(map(_has_literals, found))}
        return function.scope.bound(known)

    # --- records ---

    def _records(self, node: ast.expr, scope: Scope) -> list[dict[str, tuple[str, ...]]]:
        """Return the texts of the fields of each record that may be meant: `diagnosis` is a `_Diagnosis`."""
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                fields = self._fields(part.value.id)
                if part.attr in fields:
                    return list(self._made_records(part.value.id, fields))
        return []

    def _fields(self, variable: str) -> list[str]:
        for name, node in self._index.classes.items():
            if _is_named_after(variable, name):
                return [last_name(one.target) for one in node.body if isinstance(one, ast.AnnAssign)]
        return []

    def _made_records(self, variable: str, fields: list[str]) -> Iterator[dict[str, tuple[str, ...]]]:
        for call, scope in self._index.calls:
            if not _is_named_after(variable, last_name(call.func)):
                continue
            values = dict(zip(fields, call.args, strict=False))
            values |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
            texts = {f"{variable}.{field}": self._texts(value, scope) for field, value in values.items()}
            if any(len(literal_words(one)) >= _SENTENCE_WORDS for found in texts.values() for one in found):
                yield texts


def _is_named_after(variable: str, class_name: str) -> bool:
    return class_name.lower().strip("_") == variable.lower().strip("_")


def _placeholder(node: ast.expr) -> str:
    return "{" + _name_of(node) + "}"


def _name_of(node: ast.expr) -> str:
    """Return a readable name of what an expression stands for."""
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Attribute):
        return _name_of(node.value) if node.attr == "__name__" else node.attr.strip("_")
    if isinstance(node, ast.Call):
        return _name_of_call(node)
    if isinstance(node, ast.Subscript):
        return _name_of_subscript(node)
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return _name_of(node.generators[0].iter)
    if isinstance(node, ast.IfExp | ast.BoolOp):
        return _name_of(node.body if isinstance(node, ast.IfExp) else node.values[0])
    if isinstance(node, ast.UnaryOp):
        return _name_of(node.operand)
    return ast.unparse(node) if isinstance(node, ast.BinOp) else "value"


def _name_of_subscript(node: ast.Subscript) -> str:
    if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return node.slice.value
    name = _name_of(node.value)
    return name if isinstance(node.slice, ast.Slice) else name.removesuffix("s")


def _name_of_call(node: ast.Call) -> str:
    name = last_name(node.func)
    if name in ("type", "getattr"):
        return "type" if name == "type" else "value"
    if isinstance(node.func, ast.Attribute) and name in _STRING_METHODS:
        return _name_of(node.func.value)
    if isinstance(node.func, ast.Attribute) and name == "get":
        return f"{_name_of(node.func.value)} {_name_of(node.args[0])}"
    if not node.args or (isinstance(node.func, ast.Attribute) and name != "join"):
        return name.strip("_")
    return _name_of(node.args[-1] if name == "map" else node.args[0])
