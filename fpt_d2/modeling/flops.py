"""What fvcore's FLOP counter, and with it Detectron2's, lacks: the attention in the graph that it records.

In a recorded graph the mixture of softmaxes is torch's fused attention over N heads that share the values, with a bias
of the scores as two more channels, padded to widths that its kernels like. Counted are the products of the mathematics:
the scores of each head, and one product with the values for the whole mixture, as the CPU computes them.
"""

from __future__ import annotations

from typing import Any

from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS

ATTENTION = "aten::scaled_dot_product_attention"


def attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of ``scaled_dot_product_attention``, as an op handle of ``fvcore.nn.FlopCountAnalysis``.

    Args:
        inputs, outputs: values of the recorded graph; q (B, N, Q, D), k (B, N, K, D), v (B, N, K, V) come first.
    """
    q, k, v = map(_without_padding, inputs[:3])
    batch, heads, queries, width = _without_bias(q).type().sizes()
    keys, values = k.type().sizes()[2], v.type().sizes()[3]
    shared = 1 if v.node().kind() == "aten::expand" else heads
    return int(batch * queries * keys * (heads * width + shared * values))


def _without_padding(value: Any) -> Any:
    return value.node().inputsAt(0) if value.node().kind() == "aten::pad" else value


def _without_bias(q: Any) -> Any:
    """The queries without the two channels that meet a bias in the keys; see :mod:`..core.fused`."""
    if q.node().kind() != "aten::cat":
        return q
    parts = [part.type().sizes() for part in q.node().inputsAt(0).node().inputs()]
    if [part[3:] for part in parts[1:]] != [[1], [1]]:
        return q
    return q.node().inputsAt(0).node().inputsAt(0)


def register_flop_handles() -> None:
    """Add the handle to those that every new counter starts with; one that fvcore has itself comes first."""
    _DEFAULT_SUPPORTED_OPS.setdefault(ATTENTION, attention_flops)
