"""Hierarchical generation: key frames first, then frames between frames, round by round (docs/hierarchy.md)."""
