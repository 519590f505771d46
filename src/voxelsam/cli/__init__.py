"""The command ``voxelsam``: parse, call, print."""
