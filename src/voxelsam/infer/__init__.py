"""From a volume and a bundle to a mask in the right place."""
