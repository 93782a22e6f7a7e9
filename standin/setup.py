"""A stand-in for Detectron2, installed by the Makefile only where no Detectron2 is; no part of fpt_d2's own package."""

import os

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPth(build_py):
    """Also puts the .pth file, which setuptools has no word for, at the top of site-packages."""

    def run(self):
        super().run()
        self.copy_file("detectron2_standin.pth", os.path.join(self.build_lib, "detectron2_standin.pth"))


setup(
    name="detectron2-standin",
    version="1.0",
    description="Lets `import detectron2` work from the copy of Detectron2 that LabGym 3.1.2 carries",
    py_modules=["detectron2_standin"],
    python_requires=">=3.10",
    cmdclass={"build_py": BuildWithPth},
)
