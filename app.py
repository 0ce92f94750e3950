"""Entry for a local start (`python app.py [--port N]`) and for hosts that look for this file; the rest is in `app/`."""

import sys

from app.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["serve"]
    main()
