"""The task decorator `@task.ray_pipeline`, whose function returns the steps of a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from airflow.sdk import Context
from airflow.sdk.bases.decorator import DecoratedOperator, _TaskDecorator

from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from airflow_provider.unrendered import hidden, unrendered_steps
from ray_pipeline_core import ConfigError, RayPipelineExecutor

__all__ = ["ray_pipeline_task"]

_NOT_YET_CALLED = "ray_pipeline:returned_by_the_function"
_DECORATED_FIELDS = tuple(field for field in RayPipelineOperator.template_fields if field != "pipeline")


class _DecoratedRayPipelineOperator(DecoratedOperator, RayPipelineOperator):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A `RayPipelineOperator` that gets its pipeline from a function, each time that it makes an executor.

    It makes one when a try starts, and again when a deferred one goes on.
    """

    custom_operator_name = "@task.ray_pipeline"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *_DECORATED_FIELDS)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **RayPipelineOperator.template_fields_renderers,
    }
    shallow_copy_attrs: Sequence[str] = (
        *DecoratedOperator.shallow_copy_attrs,
        *RayPipelineOperator.shallow_copy_attrs,
    )

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_function(python_callable)
        super().__init__(
            python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, pipeline=_NOT_YET_CALLED, **kwargs
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the pipeline; what Airflow's own class does with a returned value is for other kinds of functions."""
        return RayPipelineOperator.execute(self, context)

    def make_executor(self, context: Context) -> RayPipelineExecutor:
        """Call the function, and return the executor of the steps that it returns.

        Raises:
            ConfigError: an argument is wrong, or the function returns something else.
        """
        known = {**context, **self.op_kwargs}
        returned = self.python_callable(*self.op_args, **_wanted(self.python_callable, len(self.op_args), known))
        self.pipeline = unrendered_steps(_checked(self.python_callable, returned))
        return super().make_executor(context)


class _PipelineDecorator(_TaskDecorator[Any, Any, _DecoratedRayPipelineOperator]):
    """Airflow's decorator, which stores the operator's arguments of a mapped task; so none may hold a secret."""

    def override(self, **kwargs: Any) -> _TaskDecorator[Any, Any, _DecoratedRayPipelineOperator]:
        return super().override(**_hidden(kwargs))


def ray_pipeline_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool = False, **kwargs: Any
) -> Any:
    """Make a task of a function that returns the steps of a pipeline; DAGs have it as `@task.ray_pipeline`.

    The function runs in the Airflow worker, with its arguments and, by their names, values of Airflow's context. What
    it returns is run as by a `RayPipelineOperator`: a list of steps, which travel by value, or a string
    "package.module:factory", which is called where the run happens with `pipeline_kwargs` of the decorator; those may
    have templates. It should make the steps and do nothing else, since a task that was deferred calls it again.

    Args:
        python_callable: the function.
        multiple_outputs: whether each field of the result is an XCom of its own as well.
        **kwargs: the arguments of `RayPipelineOperator` but `pipeline`, and those of Airflow's `BaseOperator`.
    """
    make: Callable[[Any], _PipelineDecorator] = partial(
        _PipelineDecorator,
        operator_class=_DecoratedRayPipelineOperator,
        multiple_outputs=multiple_outputs,
        kwargs=_hidden(kwargs),
    )
    return make if python_callable is None else make(python_callable)


def _hidden(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: hidden(name, value) for name, value in arguments.items()}


def _check_function(function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigError(
            f"@task.ray_pipeline: {_name(function)} is a generator or a coroutine function; it must be a plain "
            "function that returns the list of steps"
        )


def _checked(function: Callable[..., Any], returned: Any) -> Any:
    """Return what a function has returned, if that can be a pipeline at all; the executor checks the rest."""
    if isinstance(returned, Sequence) and not isinstance(returned, bytes):
        return returned
    raise ConfigError(
        f"@task.ray_pipeline: {_name(function)} returned {type(returned).__name__}; it must return a list of steps, or "
        "a string 'package.module:factory'"
    )


def _wanted(function: Callable[..., Any], positional: int, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the known values that a function has parameters for, besides its positional arguments."""
    parameters = inspect.signature(function).parameters
    taken = set(list(parameters)[:positional])
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return {name: value for name, value in known.items() if name not in taken and (takes_all or name in parameters)}


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
