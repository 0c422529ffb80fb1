"""What a network is called: a registered name, timm/NAME, or where its code is and how it is called. Texts only."""

from __future__ import annotations

import ast
import hashlib
import keyword
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from itd.errors import ModelError

TIMM = "timm/"
WAYS = "FILE.py:NAME, package.module:NAME (a function or class that gives a network) and timm/NAME"
"""How a network that is not registered can be named."""
_FACTORY = re.compile(r"(?P<where>.+?):(?P<attribute>[^\W\d]\w*(?:\.[^\W\d]\w*)*)(?:\((?P<arguments>.*)\))?", re.DOTALL)
_SLUG_CHARACTERS = 100


@dataclass(frozen=True)
class FactoryName:
    """`mynets.py:make(depth=18)`: a function or class that gives a network, and what it is called with.

    where: a file that ends in .py, or a module's dotted name. attribute: the function or class in it. arguments: by
    name, sorted. Its text, `str(name)`, is the same for every way to write it.
    """

    where: str
    attribute: str
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def is_file(self) -> bool:
        """Whether `where` is a file; else it is a module."""
        return self.where.endswith(".py")

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.arguments)
        return f"{self.where}:{self.attribute}" + (f"({inside})" if inside else "")


def is_timm(name: Any) -> bool:
    """Whether a name is one of timm's: `timm/resnet50`."""
    return isinstance(name, str) and name.startswith(TIMM)


def is_factory(name: Any) -> bool:
    """Whether a name says where a network's code is: `FILE.py:NAME` or `package.module:NAME`."""
    return isinstance(name, str) and ":" in name and not is_timm(name)


def parse_factory(name: str) -> FactoryName:
    """A factory's name in its parts; ModelError for a text that is none.

    >>> parse_factory("./mynets.py:make(width=2, act=relu)").arguments
    (('act', 'relu'), ('width', 2))
    """
    found = _FACTORY.fullmatch(name.strip())
    where = "" if found is None else found["where"]
    if found is None or not (where.endswith(".py") or all(part.isidentifier() for part in where.split("."))):
        raise ModelError(f"{name!r} is no network's name; with a colon it is FILE.py:NAME or package.module:NAME")
    where = os.path.normpath(where) if where.endswith(".py") else where
    return FactoryName(where, found["attribute"], _arguments(name, found["arguments"] or ""))


def canonical_name(name: str) -> str:
    """The one text of a network's name: a factory's arguments sorted, its file's path without detours.

    >>> canonical_name("./mynets.py:make(width=2, depth=18)"), canonical_name("resnet50")
    ('mynets.py:make(depth=18, width=2)', 'resnet50')
    """
    return str(parse_factory(name)) if is_factory(name) else name


def name_with_arguments(model: str, model_arg: Iterable[str] = ()) -> str:
    """A factory's name with arguments as they are typed, `key=value` each, values Python literals or else texts.

    Raises ModelError for arguments that are not so, and for a name that takes none.

    >>> name_with_arguments("mynets.py:make", ["width=2", "act=relu"])
    "mynets.py:make(act='relu', width=2)"
    """
    given = list(model_arg)
    if not given:
        return canonical_name(model)
    if not is_factory(model):
        raise ModelError(
            f"`model_arg={given[0]}` is an argument of FILE.py:NAME or package.module:NAME, and the network is "
            f"{model or 'not named'}; leave `model_arg` out, or give such a `model`"
        )
    factory = parse_factory(model)
    arguments = dict(factory.arguments)
    for text in given:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not _is_argument(key):
            raise ModelError(f"`model_arg={text}` is not key=value; allowed is for example `model_arg=depth=18`")
        if key in arguments:
            raise ModelError(f"the argument {key} of {factory.attribute} is given twice; give `model_arg={key}=` once")
        arguments[key] = _value(value)
    return str(FactoryName(factory.where, factory.attribute, tuple(sorted(arguments.items()))))


def model_slug(name: str) -> str:
    """What the files of a network are called: its name without slashes, colons and brackets.

    >>> model_slug("nets/mynets.py:make(depth=18, act='relu')"), model_slug("timm/resnet50.a1_in1k")
    ('mynets-make-actrelu-depth18', 'timm-resnet50.a1_in1k')
    """
    if not is_factory(name):
        return name.replace("/", "-")
    factory = parse_factory(name)
    where = os.path.basename(factory.where).removesuffix(".py") if factory.is_file else factory.where
    said = [f"{key}{value}" for key, value in factory.arguments]
    slug = "-".join(_plain(part) for part in (where, factory.attribute, *said))
    if len(slug) > _SLUG_CHARACTERS:
        digest = hashlib.sha256(str(factory).encode()).hexdigest()[:8]
        slug = f"{slug[:_SLUG_CHARACTERS]}-{digest}"
    return slug


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text).strip("._")


def _is_argument(key: str) -> bool:
    return key.isidentifier() and not keyword.iskeyword(key)


def _arguments(name: str, text: str) -> tuple[tuple[str, Any], ...]:
    """What stands in a name's brackets, sorted."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError
        keys = [part.arg for part in call.keywords]
        if call.args or None in keys or len(set(keys)) != len(keys):
            raise SyntaxError
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ModelError(
            f"{name!r}: what stands in brackets is not key=value, each once; allowed is for example "
            "mynets.py:make(depth=18, width=2)"
        ) from None
    return tuple(sorted((str(part.arg), _value(ast.unparse(part.value))) for part in call.keywords))


def _value(text: str) -> Any:
    """A Python literal, else the text; nothing that another reading of its `repr` would not give again.

    >>> _value("(1, 2)"), _value("relu"), _value("1e999")
    ((1, 2), 'relu', '1e999')
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
        if any(isinstance(node, ast.Set) for node in ast.walk(tree)):  # whose order is another in each process
            return text
        value = ast.literal_eval(tree)
        return value if ast.literal_eval(repr(value)) == value else text
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return text
