#!/usr/bin/env python
"""Prepare a set of real photographs for training; see fpt_d2/commands/prepare.py, or --help."""

import sys

from fpt_d2.commands.prepare import main

if __name__ == "__main__":
    sys.exit(main())
