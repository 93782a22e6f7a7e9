"""The bundled data sets, drawn from a seed: shapes for detection, and context scenes for semantic segmentation.

Only :mod:`.classes` can be imported without OpenCV.
"""
