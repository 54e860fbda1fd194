"""The formats of other programs: published weights come in, trained nets go out."""
