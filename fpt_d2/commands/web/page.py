"""The page: Gradio's components around a :class:`.viewer.Viewer`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...errors import UserError
from .viewer import MAX_BYTES, Viewer, scale_of

# Read when Gradio is imported: it would tell its makers of every start, and keep uploads for good.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr  # noqa: E402

_AUTOMATIC = "automatic"
_OBJECT, _PIXEL = "the object there", "the pixel"
# One at a time, over all that computes.
_ONE = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
_HEIGHT = 520
_HELP = "### What it looked at\nClick an object or a pixel in the picture."
_NOTHING = "The model has no branches, so there is nothing that it looks at."


def build_page(viewer: Viewer, title: str) -> gr.Blocks:
    """The page of a model, which :func:`served` serves."""
    page = gr.Blocks(title="FPT", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600))
    with page:
        image, place, samples = gr.State(), gr.State(), gr.State(0)
        gr.Markdown(f"# {title}\nDrop an image, then click in the result to see what that place looked at.")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                file = gr.File(label="Image", elem_id="file", height=120)
                sample = gr.Button("An image of the test set", elem_id="sample", visible=viewer.num_samples > 0)
                status = gr.Markdown(elem_id="status")
                # From 0, though nothing is predicted below MIN_SCORE: who types 0.3 has typed 0 first.
                threshold = gr.Slider(0, 1, 0.5, step=0.05, label="Lowest score", elem_id="threshold")
                label = "Compare with the branches off (FPN)"
                compare = gr.Checkbox(label=label, elem_id="compare", visible=bool(viewer.levels))
                clicked = gr.Radio([_OBJECT, _PIXEL], value=_OBJECT, label="A click asks about", elem_id="asks")
                levels = [_AUTOMATIC, *viewer.levels]
                level = gr.Dropdown(levels, value=_AUTOMATIC, label="Level that is asked", visible=bool(viewer.levels))
                headers = ["", "object", "score"]
                table = gr.Dataframe(headers=headers, elem_id="objects", interactive=False, max_height=260)
            with gr.Column(scale=3, min_width=400):
                with gr.Row():
                    drawn = _picture("What the model detects", "drawn", height=_HEIGHT)
                    without = _picture("With the branches off", "without", height=_HEIGHT, visible=False)
                hint = gr.Markdown(_HELP if viewer.levels else _NOTHING, elem_id="hint")
                looked = _picture("What it looked at", "looked", show_label=False)

        def say(error: UserError) -> dict[Any, Any]:
            return {status: f"⚠️ {error}"}

        def show(pixels: np.ndarray | None, min_score: float, compares: bool) -> dict[Any, Any]:
            if pixels is None:
                return {drawn: None, without: gr.Image(None, visible=compares), table: None, status: ""}
            rows = [[i, name, f"{score:.0%}"] for i, (name, score) in enumerate(viewer.objects(pixels, min_score), 1)]
            other = viewer.draw(pixels, min_score, branches=False) if compares else None
            return {
                drawn: viewer.draw(pixels, min_score),
                without: gr.Image(other, visible=compares),
                table: rows or None,
                status: "",
            }

        def upload(path: str | None, min_score: float, compares: bool) -> dict[Any, Any]:
            forgotten = {place: None, looked: None, hint: _HELP if viewer.levels else _NOTHING}
            try:
                pixels = None if path is None else viewer.read(path)
            except UserError as error:
                return forgotten | show(None, min_score, compares) | {image: None} | say(error)
            return forgotten | {image: pixels} | show(pixels, min_score, compares)

        def next_sample(number: int, min_score: float, compares: bool) -> dict[Any, Any]:
            pixels = viewer.sample(number)
            return {image: pixels, samples: number + 1, place: None, looked: None} | show(pixels, min_score, compares)

        def look(pixels: np.ndarray | None, where: Any, level: str) -> dict[Any, Any]:
            if pixels is None or where is None:
                return {status: ""}
            try:
                found = viewer.look(pixels, where, None if level == _AUTOMATIC else level)
            except UserError as error:
                return say(error)
            return {looked: found, hint: f"### What {where.title} looked at", status: ""}

        def click(
            pixels: np.ndarray | None, min_score: float, asks: str, level: str, event: gr.SelectData
        ) -> dict[Any, Any]:
            if pixels is None:
                return {status: ""}
            x, y = (float(value) / scale_of(pixels) for value in event.index)
            where = viewer.place_at(pixels, min_score, x, y, objects=asks == _OBJECT)
            return {place: where} | look(pixels, where, level)

        def choose(pixels: np.ndarray | None, min_score: float, level: str, event: gr.SelectData) -> dict[Any, Any]:
            if pixels is None or event.index[0] >= len(viewer.objects(pixels, min_score)):
                return {status: ""}
            where = viewer.nth(pixels, min_score, event.index[0])
            return {place: where} | look(pixels, where, level)

        shown = [image, samples, place, drawn, without, table, looked, hint, status]
        file.change(upload, [file, threshold, compare], shown, **_ONE)
        sample.click(next_sample, [samples, threshold, compare], shown, **_ONE)
        threshold.change(show, [image, threshold, compare], shown, trigger_mode="always_last", **_ONE)
        compare.change(show, [image, threshold, compare], shown, **_ONE)
        level.change(look, [image, place, level], shown, **_ONE)
        drawn.select(click, [image, threshold, clicked, level], shown, **_ONE)
        table.select(choose, [image, threshold, level], shown, **_ONE)
    page.queue(max_size=16)
    return page


def _picture(label: str, name: str, **options: Any) -> gr.Image:
    return gr.Image(label=label, elem_id=name, interactive=False, format="png", buttons=["download"], **options)


@contextmanager
def served(viewer: Viewer, title: str, *, host: str, port: int) -> Iterator[str]:
    """Serve the page of a model within the block, and give its address.

    Args:
        host: 127.0.0.1 for this machine alone, 0.0.0.0 for all who reach it.

    Raises:
        UserError: another program has the port, or the machine does not have the address.
    """
    with tempfile.TemporaryDirectory(prefix="fpt-web-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what is uploaded is gone with the page
        page = build_page(viewer, title)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=MAX_BYTES,
                state_session_capacity=32,
                ssr_mode=False,
                footer_links=[],
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )
        except OSError as error:
            raise UserError(f"The page cannot be served at {host}:{port}: choose another --host or --port") from error
        try:
            yield str(address)
        finally:
            page.close(verbose=False)
