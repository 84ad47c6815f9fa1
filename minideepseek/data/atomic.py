"""Files that are whole or absent: written beside, forced to disk, then renamed into place."""

import os
import tempfile
from pathlib import Path

from minideepseek.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Replace the file by `text` (UTF-8), all at once. Raises UserError if the disk refuses."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # temporary files are private; the finished one is like any other
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _umask() -> int:
    """The process's umask; POSIX offers no way to read it but to set it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
