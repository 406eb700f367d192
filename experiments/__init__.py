"""The door: command line, layered configs, and the runs that tie data, models and evaluation together."""
