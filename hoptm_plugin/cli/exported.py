"""What ``hoptm-bench export`` prints."""

from __future__ import annotations

from hoptm_plugin.cli.console import output_console, text_of
from hoptm_plugin.core.text import pasted
from hoptm_plugin.exchange.export import Exported

MUCH = 0.01  # share of clipped values that is worth judging
IMAGES_ARE = {
    "real": "these ARE real training images; the original's licence and its subjects' consent apply to them",
    "from_real": "the images started as real training images and may still show them; look at them before sharing",
    "unknown": "what the images started as is not recorded; they may show real ones, so look at them before sharing",
}


def print_exported(exported: Exported) -> None:
    """Print where a set was exported to, what that cost, and what is to be known before it is shared."""
    manifest = exported.manifest
    lines = [f"{manifest.images} images of {len(manifest.class_names)} classes, format {manifest.format}"]
    if manifest.mosaic > 1:
        side = f"{manifest.mosaic}x{manifest.mosaic}"
        kept = "kept as they are" if manifest.format == "safetensors" else "taken apart"
        lines[0] += f"; mosaics of {side} {kept}"
    if manifest.pixels is not None:
        lines.append(f"8-bit pixels: {manifest.pixels}")
        if exported.clipped > MUCH:
            lines.append(f"judge the export itself with: hoptm-bench eval {pasted('synthetic', exported.folder)}; "
                         f"--format safetensors loses nothing")  # fmt: skip
    for what, said in (("source", exported.source), ("licence", exported.licence)):
        if said is None:
            lines.append(f"{what} of the original data: not stated; give it with --{what} TEXT")
    if exported.images_are in IMAGES_ARE:
        lines.append(f"privacy: {IMAGES_ARE[exported.images_are]}")
    console = output_console()
    for line in [*lines, f"folder: {exported.folder}"]:
        console.print(text_of(line), soft_wrap=True)
