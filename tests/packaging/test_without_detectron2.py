"""Where Detectron2 is not installed the package says so, and its mathematics works."""

BLOCK = """
import sys, warnings
sys.modules["detectron2"] = None  # as Python marks what it must not import
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fpt_d2
caught = [str(w.message) for w in caught if "Detectron2" in str(w.message)]
"""


def run(run_python, repo, code: str) -> None:
    run_python("-c", code, PYTHONPATH=str(repo))


def test_import_says_in_one_sentence_what_to_do(run_python, repo):
    check = """
assert len(caught) == 1 and "install it as" in caught[0] and "make quickstart" in caught[0], caught
for use in ("fpt_d2.FPT", "fpt_d2.add_fpt_config"):
    try: eval(use)
    except ImportError as error: assert str(error) == caught[0], error
    else: raise AssertionError(use)
try: from fpt_d2 import add_fpt_config
except ImportError as error: assert str(error) == caught[0], error
else: raise AssertionError
assert not hasattr(fpt_d2, "no_such_name") and fpt_d2.__version__
"""
    run(run_python, repo, BLOCK + check)


def test_core_works(run_python, repo):
    check = """
import torch, fpt_d2.core
from fpt_d2 import core, model_zoo
x = torch.ones(1, 4, 3, 5)
assert torch.equal(core.drop_block(x, 0.0, 3), x)
transform = core.PyramidTransform({"p2": 4, "p3": 8}, 4, channels=4)
assert transform.levels == ("p2", "p3")
assert model_zoo.get_config_file("Base-RCNN-FPT.yaml")
assert not [name for name in sys.modules if name.startswith(("detectron2.", "LabGym", "fvcore"))]
"""
    run(run_python, repo, BLOCK + check)


def test_a_detectron2_that_cannot_start_is_not_hidden(run_python, repo):
    check = """
import sys
sys.modules["fvcore"] = None
try: import fpt_d2
except ModuleNotFoundError as error: assert error.name.startswith("fvcore"), error
else: raise AssertionError
"""
    run(run_python, repo, check)
