"""Pages, figures and pictures."""
