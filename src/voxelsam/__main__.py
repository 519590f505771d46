"""``python -m voxelsam``, which is how ``torchrun`` starts it."""

from voxelsam.cli.app import main

if __name__ == "__main__":
    main()
