"""SAM's networks of our own, under Meta's parameter names, and the seam at which methods act."""
