"""The errors a user can cause. The command line prints their message as one line; a traceback is for bugs only."""

from __future__ import annotations


class ItdError(Exception):
    """What the user can mend: the message says what was wrong, what was given, what is allowed and what to do next."""


class SpaceError(ItdError):
    """An attribute, site, option or space that cannot be."""


class ModelError(ItdError):
    """A model, site path or weights file that cannot be used."""


class TraceError(ModelError):
    """A network whose work cannot be shared between configurations: it can still be run as it is."""


class InputSizeError(ModelError):
    """An image that is smaller than a layer's window."""


class DataError(ItdError):
    """A data set or an image that cannot be read."""


class ImageReadError(DataError):
    """An image whose bytes cannot be read: the disk or the network refuses, and may not the next time."""


class TooManyMissingError(DataError):
    """More images that cannot be decoded than a sweep may record as missing."""


class ResultError(ItdError):
    """A result folder or Parquet file that cannot be written, read or continued."""


class EmptyResultError(ResultError):
    """A result that has no images yet: others beside it can still be read."""


class MemoryShortageError(ItdError):
    """Memory that did not hold the least that is run at once."""


class NotFiniteError(ItdError):
    """A logit that is not finite: names the configuration and the image."""


class ItdWarning(UserWarning):
    """What a user should know of work that goes on all the same; the command line prints it as a note."""


class SetAsideWarning(ItdWarning):
    """A unit of a sweep that could not be computed: the others are there, and the same sweep tries it again."""
