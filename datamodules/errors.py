"""The one exception that means "the user can mend this"."""


class InputError(ValueError):
    """Something a user gave is wrong: a file, a folder, a value, a setting.

    The message is one line that names the thing and says what to do. The command line prints it and exits with
    code 2; every other exception is a defect of ours and keeps its traceback.
    """
