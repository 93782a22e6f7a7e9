"""What the tools share, for export_model.py."""

from fpt_d2.commands.common import logger, make_folder, tool_parser, users_files

__all__ = ["logger", "make_folder", "tool_parser", "users_files"]
