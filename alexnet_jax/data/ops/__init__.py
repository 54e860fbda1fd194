"""What is done to an image, one file a family of ops."""
