"""The errors that end a command, one class for each exit code of the contract."""


class ConfigError(ValueError):
    """Wrong usage or configuration: exit code 2."""


class DataError(ValueError):
    """Bad data, named by file and value: exit code 3."""


class Preempted(BaseException):
    """The run was asked to stop and has saved its state: exit code 75, run again to resume.

    Like KeyboardInterrupt no Exception, so that it ends a whole sweep and not only the run that it reached.
    """


class RunError(RuntimeError):
    """A run that can't go on, for a reason outside its configuration and data: exit code 1."""
