"""What a user can put right is a UserError: one line that says what, where and what to do."""


class UserError(ValueError):
    """A mistake in what the user gave (a name, a file, a setting), not in the code.

    The message is one line and complete by itself. The command line prints it after ``error:`` and exits with
    status 2, without a traceback; in Python it is an ordinary ``ValueError``.
    """

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (IPython asks for it by this name): the line, as the command line does."""
        return [f"UserError: {self}"]
