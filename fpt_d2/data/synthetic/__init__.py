"""The bundled data sets, drawn from a seed: shapes, and scenes in which a class is told by something far away.

Only :mod:`.classes` can be imported without OpenCV.
"""
