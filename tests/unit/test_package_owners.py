"""Start-up names any other distribution that owns one of our top-level package names."""

from __future__ import annotations

import pytest

from wicketgate.errors import ConfigurationError
from wicketgate.package_owners import NAMES, check_package_owners


def test_our_own_environment_passes() -> None:
    check_package_owners()


@pytest.mark.parametrize("name", NAMES)
def test_another_owner_is_named_with_the_way_out(name: str) -> None:
    owners = {name: ["wicketgate", "somebody-else"]}

    with pytest.raises(ConfigurationError, match=f"{name}.*pip uninstall somebody-else"):
        check_package_owners(owners)


def test_being_the_only_owner_passes() -> None:
    check_package_owners({name: ["wicketgate"] for name in NAMES})
