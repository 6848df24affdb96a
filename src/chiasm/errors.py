"""The one error that users see."""


class UserError(Exception):
    """Something the user can mend: what was wrong and where, and what to do about it.

    The command line prints it and exits with code 2; the server answers with status 400.
    """

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message
