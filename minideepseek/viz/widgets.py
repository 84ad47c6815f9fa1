"""Knobs: a picture with sliders where there is a front end, and still a picture where there is none.

A lesson is read in three places: live in JupyterLab, as a committed file on the web, and inside tests. Widgets exist
only in the first. So a knob sends ONE output that carries two forms of itself, as Jupyter's mime bundles allow: the
live widget, and the first picture as PNG (or HTML). Each reader shows the richest form it understands.
"""

import base64
import html
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from matplotlib import pyplot
from matplotlib.figure import Figure

from minideepseek.errors import UserError
from minideepseek.viz.style import png


class _Picture(NamedTuple):
    mime: str
    content: bytes | str


def _render(drawn: Figure | str) -> _Picture:
    if isinstance(drawn, str):
        return _Picture("text/html", drawn)
    if not isinstance(drawn, Figure):
        raise TypeError(
            f"a knob's function returns a matplotlib Figure or a string of HTML, not {type(drawn).__name__}"
        )
    pyplot.close(drawn)  # else the notebook shows a figure of pyplot's a second time at the end of the cell
    return _Picture("image/png", png(drawn))


def knob(draw: Callable[..., Figure | str], **settings: Any) -> None:
    """Show ``draw(**settings)`` with one control for each setting; turning a control redraws the picture.

    ``draw`` returns a matplotlib ``Figure`` or a string of HTML. Each setting follows ipywidgets' shorthand:
    ``(low, high)`` or ``(low, high, step)`` a slider, a list or dict a menu, ``True``/``False`` a tick box, a string
    a text field, or any ipywidgets control. The first value is the default of that parameter of ``draw`` where it
    has one.

    >>> def wave(turns: float = 2.0) -> Figure: ...
    >>> knob(wave, turns=(0.5, 8.0, 0.5))

    Raises whatever the first call of ``draw`` raises; a later error is shown under the controls, and the picture
    before it stays.
    """
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError as missing:
        raise UserError(f'a knob needs {missing.name}; install it with: pip install "minideepseek[course]"') from None

    defaults = {name: parameter.default for name, parameter in inspect.signature(draw).parameters.items()}
    controls = {}
    for name, setting in settings.items():
        control = ipywidgets.interactive.widget_from_abbrev(setting, defaults.get(name))
        if control is None:
            raise TypeError(f"knob: {name}={setting!r} is no range (low, high[, step]), list of choices, bool or text")
        control.description, control.style.description_width = name, "initial"
        controls[name] = control

    def picture() -> _Picture:
        return _render(draw(**{name: control.value for name, control in controls.items()}))

    first = picture()
    screen = (ipywidgets.Image if first.mime == "image/png" else ipywidgets.HTML)(
        value=first.content, layout={"align_self": "flex-start", "max_width": "100%"}
    )
    problem = ipywidgets.HTML()

    def redraw(_: object) -> None:
        try:
            screen.value = picture().content
            problem.value = ""
        except Exception as error:  # a callback has no cell to fail in: without this the knob would just go dead
            problem.value = f"<pre>{html.escape(f'{type(error).__name__}: {error}')}</pre>"

    for control in controls.values():
        control.observe(redraw, names="value")
    bundle = ipywidgets.VBox([*controls.values(), problem, screen])._repr_mimebundle_()
    bundle["text/plain"] = (
        f"{draw.__name__}({', '.join(f'{name}={control.value!r}' for name, control in controls.items())})"
    )
    bundle[first.mime] = base64.b64encode(first.content).decode() if isinstance(first.content, bytes) else first.content
    display(bundle, raw=True)
