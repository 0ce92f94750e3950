"""Frames between frames: more of them for a video that is there, and hierarchical generation.

    InterpolateRequest + VideoFacts --plan_interpolation--> InterpolatePlan --run--> events, one mp4

Two methods share request, plan and timing: 'flow' (`flow.py`) moves the pixels of the two neighbouring frames, which is
motion interpolation, not generation; 'generate' lets a model that was trained for it invent the frames between.
Hierarchical generation makes key frames first, then frames between frames, round by round (docs/hierarchy.md).
"""
