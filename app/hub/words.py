"""Amounts as people say them."""

from __future__ import annotations


def amount(count: float) -> str:
    """Bytes, powers of 1024: '312 KB', '22 MB', '12.8 GB', '9,313 GB'."""
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GB" if count < 1000 else f"{count:,.0f} GB"
