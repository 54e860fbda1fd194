"""Preprocessing: the ops on one image, one file per family, and the strings that combine them.

To add an op, write its dataclass (`image.Op`, or `color.ColorOp` for one that changes colors) and
list the class in `chain.KNOWN`.
"""
