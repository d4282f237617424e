"""`python -m wicketgate` is the command `wicketgate`."""

from __future__ import annotations

from wicketgate.cli.main import main

if __name__ == "__main__":
    main()
