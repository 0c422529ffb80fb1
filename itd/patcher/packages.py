"""Networks that installed packages register, by an entry point of the group `itd.models`.

The contract: an entry point names a function without arguments that calls `itd.register_model` for each of its
networks. In a package's pyproject.toml:

    [project.entry-points."itd.models"]
    mypackage = "mypackage.itd:register"
"""

from __future__ import annotations

import functools
from importlib import metadata

from itd.text import first_line

GROUP = "itd.models"


@functools.cache
def broken_packages() -> tuple[str, ...]:
    """Lets every installed package register its networks, once; one line for each that could not.

    Called only where a name is not known otherwise, and where networks are listed: what a package breaks is its own.
    """
    broken = []
    for entry in metadata.entry_points(group=GROUP):
        try:
            entry.load()()
        except (Exception, SystemExit) as error:  # another's code may raise anything
            package = entry.dist.name if entry.dist is not None else entry.name
            broken.append(
                f"the installed package {package} cannot register its networks ({entry.value}: {type(error).__name__}: "
                f"{first_line(error)})"
            )
    return tuple(broken)
