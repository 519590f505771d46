"""From cases on disk to stacks for training: prepared volumes, augmentation, sampling, and a phantom to try it on."""
