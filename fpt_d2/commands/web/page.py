"""The page: Gradio's components around a :class:`.viewer.Viewer`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...errors import UserError
from .viewer import MAX_BYTES, Place, Viewer, scale_of

# Read when Gradio is imported: it would tell its makers of every start.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr

_AUTOMATIC = "automatic"
_OBJECT, _PIXEL = "the object there", "the pixel"
# One at a time, over all that computes.
_ONE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
_STYLE = "#drawn img, #without img { max-height: 520px; }"  # of tall images
_HELP = "### What it looked at\nClick an object or a pixel in the picture."
_NOTHING = "The model has no branches, so there is nothing that it looks at."

# New values of components.
Update = dict[Any, Any]


class Page:
    """The components, and what happens to them. Each method that an event calls returns the new values of some."""

    def __init__(self, viewer: Viewer, title: str) -> None:
        """
        Args:
            title: heading of the page.
        """
        self._viewer = viewer
        self._hint_at_first = _HELP if viewer.levels else _NOTHING
        self.blocks = gr.Blocks(title="FPT", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600))
        with self.blocks:
            self._image, self._place, self._samples = gr.State(), gr.State(), gr.State(0)
            gr.Markdown(f"# {title}\nDrop an image, then click in the result to see what that place looked at.")
            with gr.Row():
                with gr.Column(scale=1, min_width=260):
                    self._add_controls()
                with gr.Column(scale=3, min_width=400):
                    self._add_pictures()
            self._listen()
        self.blocks.queue(max_size=16)

    def _add_controls(self) -> None:
        branches = bool(self._viewer.levels)
        self._file = gr.File(label="Image", elem_id="file", height=120)
        self._sample = gr.Button("An image of the test set", elem_id="sample", visible=self._viewer.num_samples > 0)
        self._status = gr.Markdown(elem_id="status")
        # From 0, though nothing is predicted below MIN_SCORE: who types 0.3 has typed 0 first.
        self._threshold = gr.Slider(0, 1, 0.5, step=0.05, label="Lowest score", elem_id="threshold")
        label = "Compare with the branches off (FPN)"
        self._compare = gr.Checkbox(label=label, elem_id="compare", visible=branches)
        self._asks = gr.Radio([_OBJECT, _PIXEL], value=_OBJECT, label="A click asks about", elem_id="asks")
        levels = [_AUTOMATIC, *self._viewer.levels]
        self._level = gr.Dropdown(levels, value=_AUTOMATIC, label="Level that is asked", visible=branches)
        headers = ["", "object", "score"]
        self._table = gr.Dataframe(headers=headers, elem_id="objects", interactive=False, max_height=260)

    def _add_pictures(self) -> None:
        with gr.Row():
            with gr.Column(min_width=200):
                gr.Markdown("### What the model detects")
                self._drawn = _picture("drawn")
            with gr.Column(min_width=200, visible=False) as self._comparison:
                gr.Markdown("### With the branches off")
                self._without = _picture("without")
        self._hint = gr.Markdown(self._hint_at_first, elem_id="hint")
        self._looked = _picture("looked")

    def _listen(self) -> None:
        results = [self._image, self._samples, self._place, self._drawn, self._comparison, self._without]
        results += [self._table, self._looked, self._hint, self._status]
        settings = [self._threshold, self._compare]
        self._file.change(self.upload, [self._file, *settings], results, **_ONE)
        self._sample.click(self.next_sample, [self._samples, *settings], results, **_ONE)
        self._threshold.change(self.show, [self._image, *settings], results, trigger_mode="always_last", **_ONE)
        self._compare.change(self.show, [self._image, *settings], results, **_ONE)
        self._level.change(self.look, [self._image, self._place, self._level], results, **_ONE)
        where = [self._image, self._threshold, self._level]
        self._drawn.select(self.click, [*where, self._asks], results, **_ONE)
        self._table.select(self.choose, where, results, **_ONE)

    def show(self, image: np.ndarray | None, min_score: float, compares: bool) -> Update:
        """The detections of an image."""
        update: Update = {self._comparison: gr.Column(visible=compares), self._status: ""}
        if image is None:
            return update | {self._drawn: None, self._without: None, self._table: None}
        found = enumerate(self._viewer.objects(image, min_score), 1)
        rows = [[number, name, f"{score:.0%}"] for number, (name, score) in found]
        without = self._viewer.draw(image, min_score, branches=False) if compares else None
        drawn = self._viewer.draw(image, min_score)
        return update | {self._drawn: drawn, self._without: without, self._table: rows or None}

    def upload(self, path: str | None, min_score: float, compares: bool) -> Update:
        """A file has been dropped, or taken away."""
        return self._open(lambda: None if path is None else self._viewer.read(path), min_score, compares)

    def next_sample(self, number: int, min_score: float, compares: bool) -> Update:
        """Another image of the test set."""
        opened = self._open(lambda: self._viewer.sample(number), min_score, compares)
        return opened | {self._samples: number + 1}

    def look(self, image: np.ndarray | None, place: Place | None, level: str) -> Update:
        """What the place looked at."""
        if image is None or place is None:
            return {self._status: ""}
        try:
            looked = self._viewer.look(image, place, None if level == _AUTOMATIC else level)
        except UserError as error:
            return self._say(error)
        return {self._looked: looked, self._hint: f"### What {place.title} looked at", self._status: ""}

    def click(self, image: np.ndarray | None, min_score: float, level: str, asks: str, event: gr.SelectData) -> Update:
        """A click into the picture."""
        if image is None:
            return {self._status: ""}
        x, y = (float(value) / scale_of(image) for value in event.index)
        place = self._viewer.place_at(image, min_score, x, y, objects=asks == _OBJECT)
        return {self._place: place} | self.look(image, place, level)

    def choose(self, image: np.ndarray | None, min_score: float, level: str, event: gr.SelectData) -> Update:
        """A click into the table of objects."""
        if image is None or event.index[0] >= len(self._viewer.objects(image, min_score)):
            return {self._status: ""}
        place = self._viewer.nth(image, min_score, event.index[0])
        return {self._place: place} | self.look(image, place, level)

    def _open(self, read: Callable[[], np.ndarray | None], min_score: float, compares: bool) -> Update:
        """Another image, or in a sentence why it cannot be read."""
        try:
            image = read()
        except UserError as error:
            return self._begin(None) | self.show(None, min_score, compares) | self._say(error)
        return self._begin(image) | self.show(image, min_score, compares)

    def _begin(self, image: np.ndarray | None) -> Update:
        """Another image: what was asked about the one before is gone."""
        return {self._image: image, self._place: None, self._looked: None, self._hint: self._hint_at_first}

    def _say(self, error: UserError) -> Update:
        return {self._status: f"⚠️ {error}"}


def _picture(name: str) -> gr.Image:
    return gr.Image(elem_id=name, show_label=False, interactive=False, format="png", buttons=["download"])


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
        blocks = Page(viewer, title).blocks
        try:
            _, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=MAX_BYTES,
                state_session_capacity=32,
                ssr_mode=False,
                footer_links=[],
                css=_STYLE,
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )
        except OSError as error:
            raise UserError(f"The page cannot be served at {host}:{port}: choose another --host or --port") from error
        try:
            yield str(address)
        finally:
            blocks.close(verbose=False)
