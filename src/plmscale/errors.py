"""The one exception meant for people."""


class PlmscaleError(Exception):
    """A mistake in input, config or set-up, told in one line that says what to do next.

    Command lines print it without a traceback and leave with exit code 2.
    """
