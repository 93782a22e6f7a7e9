"""A trained model as a file that runs without this package: TorchScript, torch.export, ONNX.

:mod:`.deployable` is the model with all that ``DefaultPredictor`` does around it; :mod:`.whole` writes and compares it.
"""
