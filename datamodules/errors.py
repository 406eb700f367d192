"""What ends a command early: what the user can mend, and being told to end."""


class InputError(ValueError):
    """Something a user gave is wrong: a file, a folder, a value, a setting.

    The message is one line that names the thing and says what to do. The command line prints it and exits with
    code 2; every other exception is a defect of ours and keeps its traceback.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it ends a command as Ctrl-C does: what is finished stays, exit code 143."""
