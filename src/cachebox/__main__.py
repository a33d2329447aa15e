"""``python -m cachebox``: see `cachebox.cli`."""

from cachebox.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
