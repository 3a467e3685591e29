"""Every message that users can get, found in the source of the packages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from docs.tools.message_texts import MessageTexts, literal_words
from docs.tools.source_index import FunctionSource, Scope, SourceIndex, last_name, local_values

RANK_FAILURE = "rank failure"
RESULT_WARNING = "result warning"
LOGGED_ERROR = "logged error"
LOGGED_WARNING = "logged warning"
FLOW_STATE = "flow state"

_REQUIREMENT = re.compile(r"_?require(_|$)")
_LOGGER = re.compile(r"_*log(ger)?$")
_LOG_METHODS = {"warning": LOGGED_WARNING, "error": LOGGED_ERROR, "exception": LOGGED_ERROR, "critical": LOGGED_ERROR}
_LEVELS = {"WARNING": LOGGED_WARNING, "ERROR": LOGGED_ERROR}

# Names of values that have their text from a message that is found elsewhere, or from an exception of somebody else's.
_PASSED_ON = {"error", "message", "name", "trace", "value", "warning"}


@dataclass(frozen=True, order=True)
class Message:
    """A message that users can get.

    Attributes:
        group: the name of its error class, or one of the groups above.
        template: the message, with `{name}` for what differs.
        place: where it is made, for people.
    """

    group: str
    template: str
    place: str


class MessageFinder:
    """Finds the messages of an index.

    Nothing depends on which module a function is in: errors, helpers and loggers are known by their names.

    Args:
        index: the source.
    """

    def __init__(self, index: SourceIndex) -> None:
        self._index = index
        self._texts = MessageTexts(index)

    def find(self) -> list[Message]:
        """All messages, also those that only pass on the text of an error or a warning."""
        found = {
            Message(group, " ".join(text.split()), f"{scope.path}:{call.lineno}")
            for call, scope in self._index.calls
            if scope.function is None or not _REQUIREMENT.match(scope.function.name)
            for group, text in self._said(call, scope)
        }
        return sorted(found)

    def _said(self, call: ast.Call, scope: Scope) -> Iterator[tuple[str, str]]:
        if _REQUIREMENT.match(last_name(call.func)):
            yield from self._required(call, scope)
        yield from self._raised(call, scope)
        yield from self._logged(call, scope)
        yield from self._collected(call, scope)

    def _raised(self, call: ast.Call, scope: Scope) -> Iterator[tuple[str, str]]:
        """Error, failures of ranks and states of flows that the call makes."""
        message = _message_argument(call)
        for name in self._made(call.func, scope):
            if name == "AttemptFailure":
                position = 2
                message = message or (call.args[position] if len(call.args) > position else None)
                yield from ((RANK_FAILURE, text) for text in self._texts.of(message, scope)) if message else ()
            elif self._index.is_error(name) and (message or call.args):
                yield from ((name, text) for text in self._texts.of(message or call.args[0], scope))
            elif message and "prefect.states" in self._index.imported_from(name):
                yield from ((FLOW_STATE, text) for text in self._texts.of(message, scope))

    def _made(self, node: ast.expr, scope: Scope) -> list[str]:
        """Return the names of what may be called, where a local name may stand for one of several."""
        if isinstance(node, ast.IfExp):
            return [*self._made(node.body, scope), *self._made(node.orelse, scope)]
        if isinstance(node, ast.Name) and scope.function is not None:
            values, _ = local_values(scope.function, node.id)
            if values:
                return [name for value in values for name in self._made(value, scope)]
        name = last_name(node)
        return [name] if name else []

    def _required(self, call: ast.Call, scope: Scope) -> Iterator[tuple[str, str]]:
        """Return what the `require` functions say with the arguments of this call."""
        for function in self._index.functions.get(last_name(call.func), []):
            bound = self._texts.bind(call, scope, function)
            for inner in _calls(function):
                if _REQUIREMENT.match(last_name(inner.func)):
                    yield from self._required(inner, bound)
                yield from self._raised(inner, bound)

    def _logged(self, call: ast.Call, scope: Scope) -> Iterator[tuple[str, str]]:
        if not (isinstance(call.func, ast.Attribute) and call.args):
            return
        method = call.func.attr
        if method in _LOG_METHODS and _LOGGER.search(last_name(call.func.value)):
            yield from ((_LOG_METHODS[method], text) for text in self._texts.of_log_call(call, scope))
        elif method == "log" and len(call.args) > 1 and last_name(call.args[0]) in _LEVELS:
            inner = ast.Call(call.func, call.args[1:], [])
            yield from ((_LEVELS[last_name(call.args[0])], text) for text in self._texts.of_log_call(inner, scope))
        elif method == "write_record" and last_name(call.args[0]) in _LEVELS:
            yield from ((_LEVELS[last_name(call.args[0])], text) for text in self._texts.of(call.args[-1], scope))

    def _collected(self, call: ast.Call, scope: Scope) -> Iterator[tuple[str, str]]:
        """Return what is added to the warnings of a result or a plan, or given to `warnings.warn`."""
        if not (isinstance(call.func, ast.Attribute) and call.args):
            return
        if last_name(call.func.value).strip("_") != "warnings":
            return
        if call.func.attr in ("append", "warn"):
            yield from ((RESULT_WARNING, text) for text in self._texts.of(call.args[0], scope))
        elif call.func.attr == "extend":
            yield from ((RESULT_WARNING, text) for text in self._texts.elements(call.args[0], scope))


def _message_argument(call: ast.Call) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == "message"), None)


def _calls(function: FunctionSource) -> list[ast.Call]:
    return [node for node in ast.walk(function.node) if isinstance(node, ast.Call)]


def find_messages(index: SourceIndex) -> tuple[list[Message], list[Message]]:
    """Find every message in the source.

    Returns:
        The messages by group and text, and those of which the source does not tell a word although they do not just
        pass on the text of an error or a warning.
    """
    found = MessageFinder(index).find()
    readable = [message for message in found if literal_words(message.template)]
    others = (message for message in found if not literal_words(message.template))
    return readable, [message for message in others if not _is_passed_on(message)]


def _is_passed_on(message: Message) -> bool:
    return all(name in _PASSED_ON or name.isupper() for name in re.findall(r"\{([^{}]*)\}", message.template))
