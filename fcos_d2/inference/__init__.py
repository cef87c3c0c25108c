"""A trained model as a function of images, and its speed."""
