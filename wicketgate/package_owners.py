"""
The start-up check that our plain top-level package names are ours.

`governor`, `qos`, `rollout`, `transport` and `bench` are common words, so another distribution may install a
package of the same name over or beside ours (docs/decisions/0001-plain-top-level-names.md).
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from wicketgate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMES = ("governor", "qos", "rollout", "transport", "bench")
"""Our top-level packages beside `wicketgate` itself."""
OURS = "wicketgate"
"""The distribution that they belong to."""


def check_package_owners(owners: Mapping[str, Sequence[str]] | None = None) -> None:
    """
    Refuse to start when another distribution owns one of our names.

    Args:
        owners: Distributions by top-level package; None asks the environment.

    Raises:
        ConfigurationError: names the package, the distribution, and the command that removes it.
    """
    found = importlib.metadata.packages_distributions() if owners is None else owners
    for name in NAMES:
        others = sorted(set(found.get(name, ())) - {OURS})
        if others:
            raise ConfigurationError(
                f"the package {name} of wicketgate is also installed by {', '.join(others)}, and only one of"
                f" the two can be imported. Install wicketgate in an environment of its own, or run:"
                f" pip uninstall {' '.join(others)}"
            )
