#!/usr/bin/env python
"""Detect with a model.onnx that fpt-export has written. Needs onnxruntime and Pillow, and nothing of fpt_d2.

Example:
    python run_onnx.py model.onnx photo.jpg --output detected.jpg
"""

from __future__ import annotations

import argparse
import colorsys
import json
import os


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("image", help="a photo")
    parser.add_argument("--output", metavar="FILE", help="a picture to write")
    help = "lowest score shown, 0 to 1 (default %(default)s)"
    parser.add_argument("--confidence-threshold", type=float, default=0.5, metavar="SCORE", help=help)
    args = parser.parse_args()
    try:
        import numpy as np
        import onnxruntime
        from PIL import Image, ImageDraw, ImageOps

        session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
        photo = ImageOps.exif_transpose(Image.open(args.image)).convert("RGB")
    except ImportError as error:
        parser.error(f"{error}: pip install onnxruntime pillow")
    except Exception as error:  # onnxruntime has exceptions of its own for a file that it cannot read
        parser.error(str(error))

    if "boxes" not in [output.name for output in session.get_outputs()]:
        parser.error(f"{args.model} is not a whole detector: give a model.onnx that fpt-export has written of one")
    if args.output and os.path.realpath(args.output) == os.path.realpath(args.image):
        parser.error(f"--output {args.output} is the photo, which would be replaced: give another name")
    info = session.get_modelmeta().custom_metadata_map
    names = json.loads(info["classes"])
    pixels = np.asarray(photo)  # (height, width, 3) uint8, of any size
    if info["pixel_order"] == "BGR":
        pixels = pixels[:, :, ::-1]
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"image": np.ascontiguousarray(pixels)})

    draw = ImageDraw.Draw(photo)
    for (x0, y0, x1, y1), score, number in zip(boxes.tolist(), scores.tolist(), classes.tolist()):
        if score >= args.confidence_threshold:
            print(f"{names[number]:12} {score:6.1%}  x {x0:.1f} to {x1:.1f}, y {y0:.1f} to {y1:.1f}")
            color = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(number * 0.382 % 1, 0.9, 0.6))
            draw.rectangle([x0, y0, x1, y1], outline=color, width=3)
            label = f"{names[number]} {score:.0%}"
            draw.rectangle(draw.textbbox((x0, y0), label, font_size=14), fill=color)
            draw.text((x0, y0), label, fill="white", font_size=14)
    if args.output:
        try:
            photo.save(args.output)
        except (OSError, ValueError) as error:
            parser.error(f"{args.output} cannot be written: {error}")
        print("Wrote", args.output)


if __name__ == "__main__":
    main()
