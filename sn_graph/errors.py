"""The exceptions that users meet, each with the exit code the command line ends with.

A message says what happened, why, and what to do, in one line.
"""

from typing import ClassVar


class SnGraphError(Exception):
    """Base of every error that sn-graph raises on purpose."""

    exit_code: ClassVar[int] = 3


class VerificationFailed(SnGraphError):
    """Two models, or two providers, that should agree do not."""

    exit_code = 1


class UsageError(SnGraphError):
    """An option or argument can't be used as given."""

    exit_code = 2


class ModelError(SnGraphError):
    """A model, plan, state or input file can't be used: missing, corrupt, unsupported, non-finite."""

    exit_code = 3


class EnvironmentUnavailable(SnGraphError):
    """Something outside the model is missing: a package, an execution provider, a writable folder."""

    exit_code = 4
