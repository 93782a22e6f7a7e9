import pytest
import torch

from fpt_d2.core import products

has_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no product of oneDNN's"
)
LIBRARIES = [pytest.param(True, marks=has_onednn, id="oneDNN"), pytest.param(False, id="MKL")]
LAYOUTS = {
    "rows": lambda *size: torch.randn(*size),
    "columns": lambda g, m, n: torch.randn(g, n, m).transpose(1, 2),
    "gaps between rows": lambda g, m, n: torch.randn(g, m, n + 3)[..., :n],
    "gaps between columns": lambda g, m, n: torch.randn(g, n, m + 3)[..., :m].transpose(1, 2),
}


@pytest.mark.parametrize("onednn", LIBRARIES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 2100, 40, 70), (3, 64, 80, 96), (2, 3, 4, 5), (0, 64, 80, 96)])
def test_product_is_that_of_float64(monkeypatch, size, layout, onednn):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: onednn)
    torch.manual_seed(0)
    g, m, k, n = size
    a, b = LAYOUTS[layout](g, m, k), LAYOUTS[layout](g, k, n)
    expected = a.double() @ b.double()
    torch.testing.assert_close(products.product(a, b).double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(products.product(a, b, torch.empty(g, m, n)).double(), expected, rtol=1e-5, atol=1e-4)
    out = torch.randn(g, m, n)
    expected = expected + out
    products.add_product(out, a, b)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("onednn", LIBRARIES)
def test_other_dtypes_and_empty_matrices_are_left_to_torch(monkeypatch, onednn):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: onednn)
    for dtype in (torch.float64, torch.bfloat16):
        a, b = torch.randn(1, 600, 40).to(dtype), torch.randn(1, 40, 70).to(dtype)
        assert torch.equal(products.product(a, b), torch.bmm(a, b))
    assert products.product(torch.randn(1, 0, 40), torch.randn(1, 40, 70)).shape == (1, 0, 70)
