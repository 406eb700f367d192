"""What ends a command early: what the user can mend, and being told to end; errors of libraries in better words."""


class InputError(ValueError):
    """Something a user gave is wrong: a file, a folder, a value, a setting.

    The message is one line that names the thing and says what to do. The command line prints it and exits with
    code 2; every other exception is a defect of ours and keeps its traceback.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it ends a command as Ctrl-C does: what is finished stays, exit code 143."""


def unreadable(reason: str) -> str:
    """Why libsndfile does not read a file that is there; of a text that is named .mp3 it says that there is no file."""
    return "no audio in it" if "does not exist" in reason else reason.strip().rstrip(".")
