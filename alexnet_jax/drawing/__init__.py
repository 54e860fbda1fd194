"""HTML pages, and the figures and pictures on them."""
