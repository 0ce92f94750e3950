"""Entry for a local start (`python app.py`) and for hosts that look for this file; everything else is in `app/`."""

from app.serve import serve_from_settings

if __name__ == "__main__":
    serve_from_settings()
