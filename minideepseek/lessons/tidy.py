"""An executed notebook made reproducible: built twice, it is the same file to the last byte.

What goes: times, progress bars, addresses in memory, paths of this machine, and the widgets, which live only while
a kernel does. What stays is what a reader without a kernel can see: text, tables, and each widget's first picture.
"""

import re
import site
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"

# `40%|████      | 4/10 [00:01<00:02, 3.10it/s]`, and without a known total `4it [00:01, 3.10it/s]`
_BAR = re.compile(r"^.*(\d+%\|.*\| .*\[|\d+\w* \[\d\d:\d\d, ).*$\n?", re.MULTILINE)


def tidy(notebook: Any, *, root: Path) -> None:
    """Make an executed notebook reproducible, in place. ``root`` is the clone, whose path becomes ``.`` in outputs.

    Tidying twice is tidying once; the check uses that to see that a notebook was built and not saved by hand.
    """
    notebook.metadata = type(notebook.metadata)(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
        **{key: value for key, value in notebook.metadata.items() if key == "minideepseek"},
    )
    places = _places(root)
    for cell in notebook.cells:
        cell.metadata = type(cell.metadata)({k: v for k, v in cell.metadata.items() if k in ("tags", "jupyter")})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _tidy_output(output, places)]


def _tidy_output(output: Any, places: list[tuple[str, str]]) -> bool:
    """Tidy one output in place; false if nothing of it is worth keeping."""
    if output.output_type == "stream":
        if output.name == "stderr":
            output.text = _BAR.sub("", output.text)
        output.text = _scrub(output.text, places)
        return bool(output.text.strip())
    if output.output_type == "error":
        output.traceback = [_scrub(line, places) for line in output.traceback]
        return True
    output.data.pop(WIDGET, None)
    for mime in ("text/plain", "text/html", "text/markdown"):
        if mime in output.data:
            output.data[mime] = _scrub(output.data[mime], places)
    return not _BAR.search(output.data.get("text/plain", ""))


def _scrub(text: str, places: list[tuple[str, str]]) -> str:
    for path, name in places:
        text = re.sub(rf"(?<![\w.~-]){re.escape(path)}(?![\w-])", name, text)
    text = re.sub(r"(?<=ipykernel_)\d+", "…", text)
    return re.sub(r"\b0x[0-9a-f]{6,}\b", "0x…", text)


def _places(root: Path) -> list[tuple[str, str]]:
    """What may stand in a path of this machine, the most specific first, and what a reader elsewhere should see."""
    named = {str(root): ".", tempfile.gettempdir(): "TMP", str(Path.home()): "~"}
    named |= dict.fromkeys((sysconfig.get_path("purelib"), *site.getsitepackages()), "site-packages")
    named |= {sysconfig.get_path("stdlib"): "python"}
    # A home directory of "/" names no place of its own.
    return sorted(((p, n) for p, n in named.items() if len(Path(p).parts) > 1), key=lambda item: -len(item[0]))
