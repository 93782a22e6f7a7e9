"""Lets ``import detectron2`` work where no Detectron2 is installed but LabGym is.

LabGym carries the Python files of Detectron2 as ``LabGym.detectron2``, with only their import names changed.
This module runs those files under their own names, so that classes, loggers, pickles and configs say ``detectron2.…``
as they do everywhere else. Nothing is copied or written.

``detectron2_standin.pth`` calls :func:`install` whenever Python starts. The finder it installs is the *last* that
Python asks, so a Detectron2 that is installed, in whatever way and at whatever time, is found before it.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

_NAME = "detectron2"
_CARRIED = "LabGym.detectron2"


def install():
    """Offer ``detectron2`` to every import that nothing else can answer."""
    if _PackageFinder not in sys.meta_path:
        sys.meta_path.append(_PackageFinder)


class _RenamingLoader(SourceFileLoader):
    """Runs one of LabGym's files with Detectron2's own import names."""

    def get_data(self, path):
        return super().get_data(path).replace(_CARRIED.encode(), _NAME.encode())

    def path_stats(self, path):
        # Python asks this before it uses or writes a .pyc file. LabGym's hold LabGym's names: neither.
        raise OSError(f"no bytecode for {path}")


class _PackageLoader(_RenamingLoader):
    """Runs ``detectron2/__init__.py``; from then on every ``detectron2.*`` comes from LabGym's files."""

    def exec_module(self, module):
        if sys.modules.get(_CARRIED, module) is not module:
            raise ImportError(f"{_CARRIED} is already imported, and two copies would exist: import {_NAME} before it")
        if _SubmoduleFinder not in sys.meta_path:
            # First, because Python's own finder would find the same files and run them unchanged.
            sys.meta_path.insert(0, _SubmoduleFinder)
        super().exec_module(module)


class _AliasLoader:
    """Answers ``LabGym.detectron2.x`` with the module ``detectron2.x``, so that there is one copy.

    The ``.py`` configs of Detectron2's model zoo need it: they are read as files, LabGym's import names and all.
    """

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        sys.modules[module.__name__] = import_module(_NAME + module.__name__[len(_CARRIED) :])


class _PackageFinder:
    """Finds ``detectron2`` in LabGym."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != _NAME:
            return None
        labgym = PathFinder.find_spec("LabGym")
        if labgym is None:
            return None
        return _with_loader(PathFinder.find_spec(name, labgym.submodule_search_locations), _PackageLoader)


class _SubmoduleFinder:
    """Finds ``detectron2.*`` in LabGym, and ``LabGym.detectron2.*`` in ``detectron2.*``."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith(_NAME + "."):
            return _with_loader(PathFinder.find_spec(name, path), _RenamingLoader)
        if name == _CARRIED or name.startswith(_CARRIED + "."):
            return ModuleSpec(name, _AliasLoader)
        return None


def _with_loader(spec, loader_class):
    if spec is not None and isinstance(spec.loader, SourceFileLoader):
        spec.loader = loader_class(spec.loader.name, spec.loader.path)
    return spec
