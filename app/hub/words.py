"""Amounts as people say them."""

from __future__ import annotations


def amount(count: float) -> str:
    """Bytes in powers of 1000, as plans and disks count them: '312 kB', '23 MB', '13.8 GB', '10,000 GB'."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB" if count < 1000 else f"{count:,.0f} GB"
