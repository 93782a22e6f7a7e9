"""The parts of tools/ablate.py. Nothing here imports torch or Detectron2 before it is needed."""
