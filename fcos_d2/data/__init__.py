"""Training data: loader, mapper, images; readers in datasets/, the checker in check/."""
