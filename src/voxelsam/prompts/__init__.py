"""Prompts: points, boxes, scribbles and masks of objects, placed on the pictures that a model sees."""
