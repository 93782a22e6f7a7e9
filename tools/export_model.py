#!/usr/bin/env python
"""Export a trained model as one file; see fpt_d2/commands/export.py, or --help."""

import sys

from fpt_d2.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
