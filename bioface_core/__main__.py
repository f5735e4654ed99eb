"""How do our own processes start? ``python -m bioface_core`` is the ``bioface`` command."""

from bioface_core.cli import main

if __name__ == "__main__":
    main()
