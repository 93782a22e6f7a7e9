"""The command lines that an installed fpt_d2 has; a checkout starts the same ones by train_net.py, demo/ and tools/.

Nothing that takes long is imported before a command line is understood.
"""
