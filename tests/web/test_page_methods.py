"""What the page answers to an event, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpt_d2.commands.web.viewer import Viewer

pytest.importorskip("gradio", reason="the page needs Gradio: make web")


def test_an_image_of_the_test_set_that_cannot_be_read_is_one_sentence(
    viewer: Viewer, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpt_d2.commands.web.page import Page

    page = Page(viewer, "model")
    monkeypatch.setattr(viewer, "_samples", [str(tmp_path / "gone.png"), str(photo)])
    first = page.next_sample(0, 0.5, False)
    assert "gone.png cannot be read" in first[page._status] and first[page._image] is None
    second = page.next_sample(first[page._samples], 0.5, False)
    assert second[page._image].shape == (75, 120, 3) and not second[page._status]
