"""Prompts: points, boxes, scribbles and masks of objects, placed on the pictures that a model sees."""

from voxelsam.prompts.prompt import LIMIT, Box, Mask, Point, Prompt, Prompts, Scribble, Space, Target, Vector

__all__ = ["LIMIT", "Box", "Mask", "Point", "Prompt", "Prompts", "Scribble", "Space", "Target", "Vector"]
