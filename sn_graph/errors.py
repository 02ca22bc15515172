"""Errors: the exceptions that users meet, each with the exit code that the command line ends with."""

import unicodedata
from typing import ClassVar, Self

_LONGEST = 4000  # characters of a message; a name may have millions


def printable(text: str) -> str:
    r"""Return a text that may hold names from a file as it can be shown: in one line, with nothing in it that acts.

    Control characters, line breaks, what turns the direction of writing, and halves of characters become escapes, which
    regular expressions read as what they stand for.

    >>> printable("conv\x1b[2J\nkernel\u202e/größe")
    'conv\\x1b[2J\\nkernel\\u202e/größe'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if unicodedata.category(character) in _ACTING:
        return ascii(character)[1:-1]
    return character


_ACTING = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


def shortened(text: str) -> str:
    """Return a message with its middle left out where it is longer than anybody reads."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


class SnGraphError(Exception):
    """Base of every error that sn-graph raises on purpose: what happened, why, and what to do, in one line.

    The message can be printed whatever names from files the parts hold; the parts hold them as they are.

    Attributes:
        what: What happened.
        why: Why, or what follows from it. One that begins with a conjunction ("so it has no norm") follows a comma in
            the message, any other a colon.
        do: What to do about it.

    >>> str(SnGraphError("weight 'w' holds 3 NaN values", "so it has no spectral norm", leave_out("w")))
    "weight 'w' holds 3 NaN values, so it has no spectral norm; leave it out with --exclude '^w$'"
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, what: str, why: str = "", do: str = "") -> None:
        super().__init__(what, why, do)
        self.what = what
        self.why = why
        self.do = do

    @property
    def reason(self) -> str:
        """What happened and why, without the advice, which may belong to another command."""
        if not self.why:
            return self.what
        separator = ", " if self.why.partition(" ")[0] in _CONJUNCTIONS else ": "
        return self.what + separator + self.why

    def __str__(self) -> str:
        return printable(f"{self.reason}; {self.do}" if self.do else self.reason)

    def about(self, what: str) -> Self:
        """Return the same error, said of something: a file's path, say."""
        return type(self)(f"{what}: {self.what}", self.why, self.do)


_CONJUNCTIONS = frozenset({"and", "because", "but", "for", "so", "where", "which", "whose"})


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


def leave_out(weight: str) -> str:
    r"""Return the advice to leave a weight out: `--exclude` with a regular expression that finds its name alone.

    >>> leave_out("conv1.kernel")
    "leave it out with --exclude '^conv1\\.kernel$'"
    """
    # re.escape would escape harmless characters too.
    escaped = "".join("\\" + character if character in r"\.^$*+?{}[]|()" else character for character in weight)
    return f"leave it out with --exclude '^{escaped}$'"
