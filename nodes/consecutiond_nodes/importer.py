"""Targets: `module:attribute` and `file.py[:attribute]`, loaded with the user's own traceback kept."""

import difflib
import importlib.util
import os
import pkgutil
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from consecutiond_nodes import discovery, shipping
from consecutiond_nodes.discovery import FILE_MODULE, find_target, graph_of
from consecutiond_nodes.errors import TargetError
from consecutiond_nodes.usertrace import user_traceback

__all__ = ["FILE_MODULE", "Loaded", "find_target", "graph_of", "load", "loading"]

#: True while `load` executes the user's module. Read it as `importer.loading`.
loading: bool = False


class Loaded(BaseException):
    """Raised out of a user's module that is being loaded: what we were looking for has been found.

    A script without an `if __name__ == "__main__":` block would otherwise start itself again in each of
    its workers. It is no `Exception`, so that the script's own `except Exception` lets it pass.
    """

    def __init__(self, found: Any) -> None:
        super().__init__(found)
        self.found = found


class _Target(NamedTuple):
    text: str
    path: Path | None
    module: str
    attribute: str


def load(target: str) -> Any:
    """Import what a target names.

    Args:
        target: `module:attribute`, `module`, `file.py:attribute` or `file.py`. The attribute may have dots.
            Without one the consecutor that the module defines is meant, else its graph.

    Returns:
        The object: of a target without attribute, a `Graph` or something with an attribute `graph`.

    Raises:
        TargetError: there is no such file, module or attribute, or its code raised; then the error has the
            user's part of the traceback.

    """
    if target.startswith(shipping.SCHEME):
        return shipping.load(target)
    parsed = _parse(target)
    module, found = _load_file(parsed) if parsed.path else _load_module(parsed)
    if not parsed.attribute:
        return discovery.only_candidate(module, parsed.text) if found is None else found.found
    try:
        return _attribute(module, parsed)
    except TargetError:
        if found is None:
            raise
        return found.found


def _parse(target: str) -> _Target:
    head, colon, attribute = target.rpartition(":")
    if not colon or Path(target).is_file():
        head, attribute = target, ""
    if (colon and head == target[:-1]) or not head:
        raise TargetError(f"the target {target!r} lacks a part; write module:attribute or file.py:attribute")
    if head.endswith(".py") or os.sep in head:
        return _Target(target, Path(head), FILE_MODULE, attribute)
    return _Target(target, None, head, attribute)


def _load_file(target: _Target) -> tuple[ModuleType, Loaded | None]:
    path = Path(os.path.abspath(target.path or ""))
    if not path.is_file():
        raise TargetError(f"the target {target.text!r}: there is no file {path}{_other_file(path)}")
    # as python does with the directory of a script
    _put_on_path(str(path.parent))
    loader = SourceFileLoader(FILE_MODULE, str(path))
    spec = importlib.util.spec_from_file_location(FILE_MODULE, path, loader=loader)
    return _execute(spec, target)


def _load_module(target: _Target) -> tuple[ModuleType, Loaded | None]:
    _put_on_path(os.getcwd())
    importlib.invalidate_caches()
    parts = target.module.split(".")
    module: ModuleType | None = None
    found: Loaded | None = None
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        parent, module = module, sys.modules.get(name)
        if module is None and found is None:
            module, found = _execute(_spec(name, parent, target), target)
            if parent is not None:
                setattr(parent, parts[count - 1], module)
        elif module is None:
            # a parent package has already raised what it found, half-way through
            return parent or ModuleType(name), found
    return module or ModuleType(target.module), found


def _spec(name: str, parent: ModuleType | None, target: _Target) -> ModuleSpec | None:
    """Look for one module without importing the whole of it, to tell a missing one from a failing one."""
    try:
        if parent is None or hasattr(parent, "__path__"):
            return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        # names that no module can have, such as an empty one
        pass
    raise _no_module(name, parent, target)


def _execute(spec: ModuleSpec | None, target: _Target) -> tuple[ModuleType, Loaded | None]:
    """Run the code of a module; it stays registered if it came to its end, or raised `Loaded`."""
    global loading
    if spec is None or spec.loader is None:
        raise _no_module(target.module, None, target)
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(spec.name)
    # before its code runs: dataclasses and pickle look up the module of a class
    sys.modules[spec.name] = module
    outer, loading = loading, True
    try:
        spec.loader.exec_module(module)
    except Loaded as found:
        return module, found
    except (Exception, SystemExit) as error:
        _put_back(spec.name, before)
        raise _failed(target, error) from error
    except BaseException:
        _put_back(spec.name, before)
        raise
    finally:
        loading = outer
    # a module may put something else in its own place
    return sys.modules.get(spec.name, module), None


def _put_back(name: str, module: ModuleType | None) -> None:
    sys.modules.pop(name, None)
    if module is not None:
        sys.modules[name] = module


def _put_on_path(directory: str) -> None:
    if directory not in sys.path:
        sys.path.insert(0, directory)


def _attribute(module: ModuleType, target: _Target) -> Any:
    thing: Any = module
    for name in target.attribute.split("."):
        try:
            thing = getattr(thing, name)
        except AttributeError:
            raise _no_attribute(thing, name, module, target) from None
    return thing


def _failed(target: _Target, error: BaseException) -> TargetError:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    advice = ""
    if isinstance(error, SystemExit):
        advice = '; put what a script does when it is run under `if __name__ == "__main__":`'
    elif isinstance(error, ModuleNotFoundError):
        advice = "; is it installed for this python, or does the command run in another directory?"
    text = f"the target {target.text!r} cannot be loaded: its code raised {what}{advice}"
    return TargetError(text, user_traceback(error))


def _no_module(name: str, parent: ModuleType | None, target: _Target) -> TargetError:
    places = None if parent is None else list(getattr(parent, "__path__", []))
    last = name.rpartition(".")[2]
    known = [module.name for module in pkgutil.iter_modules(places)]
    close = difflib.get_close_matches(last, known, 1)
    advice = f"; did you mean {name[: len(name) - len(last)]}{close[0]}?" if close else ""
    return TargetError(
        f"the target {target.text!r}: there is no module {name!r} in {os.getcwd()} or in the places where "
        f"python looks{advice} (a file is written with its ending: file.py:attribute)"
    )


def _other_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is not even the directory {path.parent}"
    close = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.py")], 1)
    return f"; did you mean {close[0]}?" if close else ""


def _no_attribute(thing: object, name: str, module: ModuleType, target: _Target) -> TargetError:
    known = [key for key in vars(thing) if not key.startswith("__")] if hasattr(thing, "__dict__") else []
    close = difflib.get_close_matches(name, known, 1)
    advice = f"; did you mean {close[0]!r}?" if close else ""
    if discovery.has_main_block(module):
        advice += (
            '; is it made under `if __name__ == "__main__":`? That block does not run here: make the graph before it'
        )
    where = module.__name__ if target.path is None else target.path
    owner = where if thing is module else f"{target.attribute.rpartition('.')[0]} in {where}"
    return TargetError(f"the target {target.text!r}: {owner} has no attribute {name!r}{advice}")
