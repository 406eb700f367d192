"""One command a file: a function whose signature and docstring are its flags and help."""
