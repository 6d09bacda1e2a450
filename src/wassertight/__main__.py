"""`python -m wassertight` is the command line."""

from __future__ import annotations

from wassertight.cli.main import main

if __name__ == "__main__":
    main()
