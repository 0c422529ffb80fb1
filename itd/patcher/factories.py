"""Networks by where their code is: `FILE.py:NAME` and `package.module:NAME`, loaded, called and checked.

Not for their weights (`itd.weights.factory`), nor for what they are called (`names`).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import nn

from itd.checked import BadFile, read_bytes
from itd.errors import ModelError
from itd.patcher.names import FactoryName, parse_factory
from itd.text import first_line, listed, one_line

_SEED = 0
_MOST_SOURCE_BYTES = 16 * 2**20


def build_factory(name: str) -> nn.Module:
    """The network that a factory gives, on the CPU and in evaluation mode; its random numbers are the same each time.

    Raises ModelError for a file, module, function or argument that is not there, an error of the factory's own, or
    anything that is no network.
    """
    factory = parse_factory(name)
    with _quietly(factory):
        make = _load(factory)
        _check_arguments(factory, make)
        torch.manual_seed(_SEED)
        try:
            network = make(**dict(factory.arguments))
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise ModelError(f"{factory} raised {_said(error)}; mend it, or call it otherwise (`model_arg`)") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{factory} returned {_kind(network)}; it has to return an nn.Module")
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        raise ModelError(f"{factory} returned a network on the meta device, without values; make it on the CPU")
    return network.cpu().float().eval()  # as weights of a file are


def check_factory(name: str) -> None:
    """ModelError for a factory that is not there, or that does not take its arguments; it is loaded, and not called."""
    factory = parse_factory(name)
    with _quietly(factory):
        _check_arguments(factory, _load(factory))


@contextlib.contextmanager
def _quietly(factory: FactoryName) -> Iterator[None]:
    """The current folder, and a file's own, can be imported from; what is printed goes to standard error."""
    own = [str(Path(factory.where).absolute().parent)] if factory.is_file else []
    with (
        _staying() as folder,
        _importable([*own, folder]),
        contextlib.redirect_stdout(sys.stderr),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(_SEED)
        yield


@contextlib.contextmanager
def _staying() -> Iterator[str]:
    """The current folder, which code inside may leave."""
    folder = os.getcwd()
    try:
        yield folder
    finally:
        os.chdir(folder)


@contextlib.contextmanager
def _importable(folders: Iterable[str]) -> Iterator[None]:
    added = list(dict.fromkeys(folders))
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in added:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)


def _load(factory: FactoryName) -> Callable[..., Any]:
    """The function or class of a name."""
    module = _load_file(factory.where) if factory.is_file else _load_module(factory.where)
    found: Any = module
    for part in factory.attribute.split("."):
        if not hasattr(found, part):
            _refuse_attribute(factory, module)
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        raise ModelError(f"{factory.where}:{factory.attribute} is a network; name a function or class that gives it")
    if not callable(found):
        raise ModelError(f"{factory.where}:{factory.attribute} is {_kind(found)}; name a function or class")
    return found


def _refuse_attribute(factory: FactoryName, module: ModuleType) -> NoReturn:
    """ModelError naming the nearest functions and classes of the module, its own before what it imported."""
    there = {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    own = [name for name, value in there.items() if getattr(value, "__module__", None) == module.__name__]
    near = difflib.get_close_matches(factory.attribute, own or there, n=5, cutoff=0.0)
    hint = f"the nearest are {', '.join(near)}" if near else "it has no function and no class"
    raise ModelError(f"{factory.where} has no {factory.attribute!r}; {hint}")


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ModelError(
                f"there is no module {error.name!r}, neither in the current folder nor installed; give "
                "package.module:NAME, or FILE.py:NAME for a file"
            ) from error
        _refuse_code(name, error)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        _refuse_code(name, error)


def _load_file(where: str) -> ModuleType:
    path = Path(where).absolute()
    try:
        source = read_bytes(path, _MOST_SOURCE_BYTES)
    except (BadFile, OSError) as error:
        files = [p.name for p in path.parent.glob("*.py") if p.is_file()]
        near = difflib.get_close_matches(path.name, files, n=3, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else "; a path is taken from the current folder"
        raise ModelError(f"cannot read {where}: {one_line(error)}{hint}") from error
    try:
        return _module_of(str(path), source)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        _refuse_code(where, error)


@functools.lru_cache(maxsize=8)
def _module_of(path: str, source: bytes) -> ModuleType:
    """A file as a module, which is made once for each content of the file."""
    name = f"itd_file_{Path(path).stem}"
    spec = importlib.util.spec_from_loader(name, _FileLoader(name, path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # what a class's pickles, and dataclasses, look their module up in
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise
    return module


class _FileLoader(importlib.machinery.SourceFileLoader):
    """Reads the source itself: byte code kept beside a file is told from it by whole seconds only."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def _check_arguments(factory: FactoryName, make: Callable[..., Any]) -> None:
    """ModelError for arguments that a factory does not take, and for those that it needs."""
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(make).parameters
    except (TypeError, ValueError):  # of some built-in ones nobody knows
        return
    what, given = f"{factory.where}:{factory.attribute}", dict(factory.arguments)
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    strange = [key for key in given if key not in named]
    if strange and not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        takes = f"it takes {listed(named, 12)}" if named else "it takes none: leave `model_arg` out"
        raise ModelError(f"{what} takes no argument {listed(strange, quoted=True)}; {takes}")
    needed = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in given]
    if needed:
        raise ModelError(f"{what} needs {listed(needed)}; give `model_arg={needed[0]}=VALUE`")


def _refuse_code(where: str, error: BaseException) -> NoReturn:
    next_step = "mend it"
    if isinstance(error, ImportError) and "relative import" in str(error):
        next_step = "give a file of a package as package.module:NAME, from the folder that the package is in"
    raise ModelError(f"{where} cannot be loaded: {_said(error)}; {next_step}") from error


def _said(error: BaseException) -> str:
    """An error's kind and the first line of what it says."""
    line = first_line(error)
    return type(error).__name__ if line == type(error).__name__ else f"{type(error).__name__}: {line}"


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
