"""Diagrams of the networks: every number in a box is read from the network's modules or from their outputs.

They are SVG with text as text: legible at the width of a phone, and the same bytes for the same network.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from sat2dem_core.errors import choose
from sat2dem_core.models.attention import CBAM, GAM, NoAttention, SimAM
from sat2dem_core.models.methods import DRPAN
from sat2dem_core.models.networks import PatchGAN, UNet
from sat2dem_core.rasters.atomic import replacing

WIDTH = 560  # units; a page is about 700 px wide, a phone 350
INK, DOWN, UP, DATA, LOSS, MARK, CUT = "#1b1b1b", "#cfe3f1", "#d3ecdf", "#f2f2f2", "#f7e3d3", "#b34700", "#b3003c"
# Layouts: a U-Net's distance between levels, columns down and up, and first row; the centers of DRPAN's boxes; the
# columns of an attention block's features and of the steps to their weights.
_STEP, _LEFT, _RIGHT, _TOP = 50, 120, WIDTH - 120, 34
_COLUMNS, _ROWS = (90, 280, 460), (34, 124, 270, 376)
_MAIN, _SIDE = 110, 370
_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" \
role="img" aria-label="{title}" font-family="sans-serif" font-size="17" fill="{ink}" text-anchor="middle">
<title>{title}</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" \
orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker></defs>
<rect width="{width}" height="{height}" rx="8" fill="white"/>
"""


@dataclass(frozen=True)
class Diagram:
    """What this module's functions return: a notebook shows it when it is a cell's last line."""

    title: str
    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Diagram({self.title!r})"

    def save(self, path: str | PathLike) -> None:
        """Write the SVG file.

        Raises:
            CannotWrite: the disk is full or the folder not writable.
        """
        with replacing(Path(path)) as temporary:
            temporary.write_text(self.svg, encoding="utf-8")


class _Canvas:
    """Boxes by their center, arrows between points, text."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, text: str, fill: str, height: float = 32, dashed: bool = False
    ) -> None:
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" rx="5" '
            f'fill="{fill}" stroke="{INK}"{dash}/>'
        )
        lines = text.split("\n")
        for number, line in enumerate(lines):
            self.text(x, y + 6 + 20 * (number - (len(lines) - 1) / 2), line)

    def text(self, x: float, y: float, text: str, color: str = INK, anchor: str = "middle", size: float = 17) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}" font-size="{size:g}">'
            f"{html.escape(text)}</text>"
        )

    def arrow(self, *points: tuple[float, float], color: str = INK, dashed: bool = False, tip: bool = True) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        rest = ' stroke-dasharray="6 4"' * dashed + ' marker-end="url(#tip)"' * tip
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"{rest}/>')

    def dot(self, x: float, y: float) -> None:
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="7" fill="{MARK}"/>')

    def attention_legend(self, x: float, y: float) -> None:
        """Say that a dot means attention, on a line of text at ``y``."""
        self.dot(x, y - 6)
        self.text(x + 15, y, "attention", anchor="start")

    def drawn(self, title: str, height: float) -> Diagram:
        head = _HEAD.format(width=WIDTH, height=f"{height:g}", title=html.escape(title, quote=True), ink=INK)
        return Diagram(title, head + "\n".join(self.parts) + "\n</svg>\n")


def _shapes(network: nn.Module, *inputs: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Channels and side of each child's output, by the child's name, for inputs of these shapes (channels, H, W)."""
    shapes: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: shapes.__setitem__(name, (output.shape[1], output.shape[2]))

    hooks = [child.register_forward_hook(note(name)) for name, child in network.named_children()]
    # Shapes alone: on the meta device PyTorch computes nothing and draws no random numbers.
    weights = {name: value.to("meta") for name, value in (*network.named_parameters(), *network.named_buffers())}
    try:
        torch.func.functional_call(network, weights, tuple(torch.empty(1, *shape, device="meta") for shape in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _kernel(conv: nn.Module | Tensor) -> str:
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    side, stride = conv.kernel_size[0], conv.stride[0]
    return f"{side} × {side}, stride {stride}"


def _attends(module: nn.Module | Tensor) -> bool:
    return not isinstance(module, NoAttention)


@dataclass(frozen=True)
class _Level:
    """One size of the features in a U-Net: the layer down to it, and the layer that comes back up to it."""

    side: int  # px
    channels_down: int
    channels_up: int
    attends_down: bool
    attends_up: bool
    dropout: bool  # on the way up


def _levels(network: UNet, shapes: dict[str, tuple[int, int]]) -> list[_Level]:
    """The levels from the largest features to the smallest, without the bottleneck."""
    children = dict(network.named_children())
    downs = ["initial_down", *(name for name in children if name.startswith("down"))]
    ups = [name for name in children if name.startswith("up")][::-1]
    return [
        _Level(
            side=shapes[down][1], channels_down=shapes[down][0], channels_up=shapes[up][0],
            attends_down=down != "initial_down" and _attends(children[down].attention),
            attends_up=_attends(children[up].attention), dropout=isinstance(children[up].dropout, nn.Dropout),
        ) for down, up in zip(downs, ups)
    ]


def unet(network: UNet) -> Diagram:
    """A generator with its channels at every level, its skip connections, attention and dropout."""
    shapes, canvas = _shapes(network, (3, network.tile, network.tile)), _Canvas()
    levels = _levels(network, shapes)
    canvas.box(_LEFT, _TOP, 140, "image, 3", DATA)
    canvas.box(_RIGHT, _TOP, 140, "elevation, 1", DATA)
    canvas.text(WIDTH / 2, _TOP + 6, f"{network.tile} px")
    for row, level in enumerate(levels, start=1):
        _draw_level(canvas, level, _TOP + row * _STEP)
    bottom = _TOP + _STEP * (len(levels) + 1)
    _draw_bottleneck(canvas, *shapes["bottleneck"], bottom)
    legend = [
        f"down: convolution {_kernel(network.initial_down[0])};  up: transposed, {_kernel(network.final_up[0])}",
        "across: a skip connection, concatenated on the way up",
        *(["dashed: with dropout"] if any(level.dropout for level in levels) else []),
        f"last: {type(network.final_up[-1]).__name__.lower()}, from −1 to 1",
    ]
    for number, line in enumerate(legend):
        canvas.text(40, bottom + 46 + 24 * number, line, anchor="start")
    height = bottom + 46 + 24 * len(legend)
    if any(level.attends_down for level in levels):
        canvas.attention_legend(47, height)
        height += 24
    return canvas.drawn(f"U-Net for tiles of {network.tile} px", height)


def _draw_level(canvas: _Canvas, level: _Level, y: float) -> None:
    """Both boxes of a level at height ``y``, the skip connection between them, and the arrows to the level above."""
    half = 25 + 5 * (level.channels_down - 1).bit_length()  # of a box: wider for more channels
    left_edge, right_edge = _LEFT + half, _RIGHT - half - 22
    canvas.arrow((_LEFT, y - _STEP + 16), (_LEFT, y - 16))
    canvas.arrow((_RIGHT, y - 16), (_RIGHT, y - _STEP + 16))
    canvas.arrow((left_edge, y), (WIDTH / 2 - 38, y), tip=False)
    canvas.arrow((WIDTH / 2 + 38, y), (right_edge, y))
    canvas.box(_LEFT, y, 2 * half, f"{level.channels_down}", DOWN)
    text = f"{level.channels_down} + {level.channels_up}"
    canvas.box(_RIGHT, y, 2 * half + 44, text, UP, dashed=level.dropout)
    canvas.text(WIDTH / 2, y + 6, f"{level.side} px")
    if level.attends_down:
        canvas.dot(left_edge, y - 16)
    if level.attends_up:
        canvas.dot(_RIGHT + half + 22, y - 16)


def _draw_bottleneck(canvas: _Canvas, channels: int, side: int, y: float) -> None:
    canvas.box(WIDTH / 2, y, 130, f"{channels}, {side} px", DOWN)
    canvas.arrow((_LEFT, y - _STEP + 16), (_LEFT, y), (WIDTH / 2 - 65, y))
    canvas.arrow((WIDTH / 2 + 65, y), (_RIGHT, y), (_RIGHT, y - _STEP + 16))


def patchgan(network: PatchGAN, tile: int = 256) -> Diagram:
    """A discriminator: its layers for a tile of this side, px, and the receptive field of each."""
    shapes, canvas = _shapes(network, (3, tile, tile), (1, tile, tile)), _Canvas()
    children = dict(network.named_children())
    layers = {name: module for name, module in children.items() if not name.startswith("attention")}
    x, y, step, field, jump = 200, 34, 66, 1, 1  # jump: px of the input between neighbors in a layer's output
    canvas.box(x - 85, y, 160, f"image, 3 × {tile}²", DATA)
    canvas.box(x + 85, y, 160, f"height, 1 × {tile}²", DATA)
    canvas.text(450, y + 6, "receptive field")
    for row, (name, module) in enumerate(layers.items(), start=1):
        conv = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
        field, jump = field + (conv.kernel_size[0] - 1) * jump, jump * conv.stride[0]
        channels, side = shapes[name]
        above, y = y, y + step
        canvas.arrow((x, above + 16), (x, y - 16))
        canvas.text(x + 12, (above + y) / 2 + 6, _kernel(conv), anchor="start", size=16)
        if row == len(layers):
            canvas.box(x, y, 230, f"{side} × {side} logits", LOSS)
        else:
            canvas.box(x, y, 230, f"{channels} × {side}²", DOWN)
        canvas.text(450, y + 6, f"{field} × {field} px")
        attention = getattr(network, name.replace("layer", "attention"), None)
        if attention is not None and attention is not module and _attends(attention):
            canvas.dot(x + 115, y - 16)
    height = y + 44
    if any(_attends(module) for name, module in children.items() if name.startswith("attention")):
        canvas.attention_legend(100, height)
        height += 30
    return canvas.drawn(f"Discriminator for tiles of {tile} px", height)


def drpan(method: DRPAN) -> Diagram:
    """How DRPAN's three networks train the generator, and where ``config.drpan`` cuts the gradient."""
    canvas, detached = _Canvas(), method.config.drpan == "detached"
    _draw_proposal(canvas, method)
    _draw_mixture(canvas, method, detached)
    _draw_losses(canvas, method, detached)
    return canvas.drawn(f"DRPAN, {method.config.drpan}, for tiles of {method.config.tile} px", _ROWS[3] + 64)


def _draw_proposal(canvas: _Canvas, method: DRPAN) -> None:
    """From the image to the prediction, and from there to the window that the discriminator finds least convincing."""
    (left, middle, right), (upper, lower, _, _), proposal = _COLUMNS, _ROWS, method.proposal
    scores = round(method.config.tile / proposal.stride)
    canvas.box(left, upper, 130, "image x", DATA)
    canvas.box(middle, upper, 130, "generator G", UP)
    canvas.box(right, upper, 150, "G(x), predicted", DATA)
    canvas.arrow((left + 65, upper), (middle - 65, upper))
    canvas.arrow((middle + 65, upper), (right - 75, upper))
    canvas.box(right, lower, 150, "discriminator D", DOWN)
    canvas.arrow((right, upper + 16), (right, lower - 16))
    canvas.box(middle, lower, 140, f"{scores} × {scores} verdicts", DATA)
    canvas.arrow((right - 75, lower), (middle + 70, lower))
    canvas.box(left, lower, 160, f"least convincing\n{proposal.window} × {proposal.window} window", DATA, height=52)
    canvas.arrow((middle - 70, lower), (left + 80, lower))


def _draw_mixture(canvas: _Canvas, method: DRPAN, detached: bool) -> None:
    """The true elevation with a square of the prediction in it, which the reviser judges."""
    (left, middle, right), (top, above, y, _), mask = _COLUMNS, _ROWS, method.proposal.mask
    turn, color = (above + y) / 2, CUT if detached else INK
    canvas.arrow((left, above + 26), (left, turn), (middle - 50, turn), (middle - 50, y - 26))
    canvas.text((left + middle - 50) / 2, turn - 8, "where", size=16)
    path = (right + 75, top), (WIDTH - 8, top), (WIDTH - 8, turn), (middle + 50, turn), (middle + 50, y - 26)
    canvas.arrow(*path, color=color, dashed=detached)
    what = "what, without its gradient" if detached else "what"
    canvas.text((middle + WIDTH + 40) / 2, turn - 8, what, color, size=16)
    canvas.box(left - 10, y, 130, "true height y", DATA)
    canvas.box(middle, y, 200, f"y, but {mask} × {mask} px\nof it from G(x)", DATA, height=52)
    canvas.box(right + 10, y, 120, "reviser R", DOWN)
    canvas.arrow((left + 55, y), (middle - 100, y))
    canvas.arrow((middle + 100, y), (right - 50, y))


def _draw_losses(canvas: _Canvas, method: DRPAN, detached: bool) -> None:
    """The four terms of the generator's loss, dashed where no gradient comes back."""
    y, crop = _ROWS[3], method.proposal.crop
    for number, loss in enumerate(["deceive D", "L1, all px", "deceive R", f"L1, {crop} × {crop}"]):
        canvas.box(78 + 135 * number, y, 124, loss, LOSS, dashed=detached and number >= 2)
    canvas.text(WIDTH / 2, y - 32, "Losses of the generator")
    note = "dashed: no gradient; G learns as in Pix2Pix" if detached else "each of the four sends its gradient to G"
    canvas.text(WIDTH / 2, y + 46, note, CUT if detached else INK)


def attention(module: nn.Module) -> Diagram:
    """How SimAM, CBAM or GAM computes its weights, step by step, with the sizes of this block's layers.

    Raises:
        UnknownName: the module is none of these three, which the message lists.
    """
    kind = choose("attention block with a diagram", type(module).__name__, [c.__name__ for c in (SimAM, CBAM, GAM)])
    canvas, y = _Canvas(), 34.0
    canvas.box(_MAIN, y, 130, "features h", DATA)
    for name, steps in _steps(module).items():
        y = _draw_half(canvas, name, steps, y)
    return canvas.drawn(kind, y + 34)


def _draw_half(canvas: _Canvas, name: str, steps: list[str], start: float) -> float:
    """The steps from the features in a box at ``start`` to weights, and the product; returns where its box stands."""
    y = start + 16
    for number, step in enumerate(steps):
        tall = 56 if "\n" in step else 34
        top = y + (14 if number == 0 else 24)
        if number == 0:
            canvas.arrow((_MAIN, top + tall / 2), (_SIDE - 125, top + tall / 2))
        else:
            canvas.arrow((_SIDE, y), (_SIDE, top))
        canvas.box(_SIDE, top + tall / 2, 250, step, LOSS if step.endswith("sigmoid") else DOWN, height=tall)
        y = top + tall
    product = y + 46
    canvas.arrow((_SIDE, y), (_SIDE, product), (_MAIN + 65, product))
    canvas.text(_SIDE - 12, product - 8, name, anchor="end", size=16)
    canvas.arrow((_MAIN, start + 16), (_MAIN, product - 16))
    canvas.box(_MAIN, product, 130, "weights × h", UP)
    return product


def _steps(module: nn.Module) -> dict[str, list[str]]:
    """The steps of each half of an attention block, by the name of the weights that it computes."""
    if isinstance(module, CBAM):
        first, _, second = module.channel_attention.fc
        conv = module.spatial_attention.conv
        return {
            "weights of channels": [
                "mean and maximum\nover the places",
                f"two layers, {first.in_channels} to\n{first.out_channels} to {second.out_channels} channels",
                "sum, sigmoid",
            ],
            "weights of places": ["mean and maximum\nover the channels", _conv(conv), "sigmoid"],
        }
    if isinstance(module, GAM):
        first, _, second = module.channel_attention.channel_mlp
        convs = [layer for layer in module.spatial_attention.spatial_attention if isinstance(layer, nn.Conv2d)]
        widths = f"{first.in_features} to {first.out_features} to {second.out_features} channels"
        return {
            "weights of channels": [f"two layers at each place,\n{widths}", "sigmoid"],
            "weights of places": [*map(_conv, convs), "sigmoid"],
        }
    simam = "square of the distance\nfrom the channel's mean", "divided by 4 times\nits variance, plus ½", "sigmoid"
    return {"weights": list(simam)}


def _conv(conv: nn.Conv2d) -> str:
    return (
        f"convolution {conv.kernel_size[0]} × {conv.kernel_size[1]},\n"
        f"{conv.in_channels} to {conv.out_channels} channels"
    )
