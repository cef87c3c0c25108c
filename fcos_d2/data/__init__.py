"""Training data: loader, mapper, augmentation, images; readers in datasets/, the checker in check/."""
