"""The parts of the demo: the files it reads and writes, predicting, drawing, and video."""
