"""Entry for a local start (`python app.py [--port N]`) and for hosts that look for this file; the rest is in `app/`."""

import os
import sys


def main() -> None:
    """On a Space what is different there, elsewhere `sprocket serve`."""
    if os.environ.get("SPACE_ID"):
        from app.space.entry import main as serve_space

        serve_space()
        return
    from app.cli import main as command

    sys.argv[1:1] = ["serve"]
    command()


if __name__ == "__main__":
    main()
