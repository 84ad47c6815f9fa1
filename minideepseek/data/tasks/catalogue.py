"""From what a user writes after `--task` to a task."""

from __future__ import annotations

from dataclasses import fields

from minideepseek.data.tasks.columns import Addition, Multiplication
from minideepseek.data.tasks.countdown import Countdown
from minideepseek.data.tasks.problem import Task
from minideepseek.errors import UserError

TASKS: dict[str, type[Addition | Multiplication | Countdown]] = {
    "addition": Addition,
    "multiplication": Multiplication,
    "countdown": Countdown,
}


def open_task(spec: str) -> Task:
    """The task of a specification, a name with settings that differ from its own: ``addition:digits=3,languages=both``.

    Raises:
        UserError: no such task, no such setting, or a setting out of range.
    """
    name, _, rest = spec.partition(":")
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
    whole = {field.name: isinstance(field.default, int) for field in fields(TASKS[name])}
    settings: dict[str, int | str] = {}
    for option in filter(None, rest.split(",")):
        key, _, value = option.partition("=")
        if key not in whole or not value or (whole[key] and not value.isdecimal()):
            raise UserError(
                f"cannot read {option!r} in {spec!r}; {name} has {', '.join(whole)}: write {name}:name=value"
            )
        settings[key] = int(value) if whole[key] else value
    try:
        return TASKS[name](**settings)  # type: ignore[arg-type]  # checked above, name by name
    except ValueError as error:
        raise UserError(f"{spec!r}: {error}") from None
