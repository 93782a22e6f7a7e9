"""The parts of the command that ablates. Nothing here imports torch or Detectron2 before it is needed."""
