#!/usr/bin/env python
"""Draw the predictions of a trained model; see fpt_d2/commands/demo.py, or --help."""

import sys

from fpt_d2.commands.demo import main

if __name__ == "__main__":
    sys.exit(main())
