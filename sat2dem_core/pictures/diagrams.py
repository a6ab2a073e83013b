"""Diagrams of the networks, drawn from the networks themselves: what stands in a box was read from a module or its output.

SVG with text as text: legible at the width of a phone, and the same bytes for the same network.
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
_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" \
role="img" aria-label="{title}" font-family="sans-serif" font-size="17" fill="{ink}" text-anchor="middle">
<title>{title}</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto-start-reverse">\
<path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker></defs>
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
        """Write the SVG file."""
        with replacing(Path(path)) as beside:
            beside.write_text(self.svg, encoding="utf-8")


class _Canvas:
    """Boxes by their center, arrows between points, text."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, text: str, fill: str, height: float = 32, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" '
            f'stroke="{INK}"{dash}/>'
        )
        lines = text.split("\n")
        for number, line in enumerate(lines):
            self.text(x, y + 6 + 20 * (number - (len(lines) - 1) / 2), line)

    def text(self, x: float, y: float, text: str, color: str = INK, anchor: str = "middle", size: float = 17) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}" font-size="{size:g}">{html.escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], color: str = INK, dashed: bool = False, tip: bool = True) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        rest = ' stroke-dasharray="6 4"' * dashed + ' marker-end="url(#tip)"' * tip
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"{rest}/>')

    def dot(self, x: float, y: float) -> None:
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="7" fill="{MARK}"/>')

    def drawn(self, title: str, height: float) -> Diagram:
        head = _HEAD.format(width=WIDTH, height=f"{height:g}", title=html.escape(title, quote=True), ink=INK)
        return Diagram(title, head + "\n".join(self.parts) + "\n</svg>\n")


def _shapes(network: nn.Module, *inputs: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Channels and side of what each child of a network gives, for inputs of these shapes."""
    found: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, given, out: found.__setitem__(name, (out.shape[1], out.shape[2]))

    hooks = [child.register_forward_hook(note(name)) for name, child in network.named_children()]
    # Shapes alone: on the meta device nothing is computed and nothing random drawn.
    weights = {name: value.to("meta") for name, value in (*network.named_parameters(), *network.named_buffers())}
    try:
        torch.func.functional_call(network, weights, tuple(torch.empty(1, *shape, device="meta") for shape in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _told(conv: nn.Module | Tensor) -> str:
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    side, stride = conv.kernel_size[0], conv.stride[0]
    return f"{side} × {side}, stride {stride}"


def _attends(module: nn.Module | Tensor) -> bool:
    return not isinstance(module, NoAttention)


def unet(network: UNet) -> Diagram:
    """A generator with its channels at every level, its skip connections, attention and dropout."""
    shapes, tile = _shapes(network, (3, network.tile, network.tile)), network.tile
    children = list(network.named_children())
    downs = [("initial_down", False), *((name, _attends(module.attention)) for name, module in children if name.startswith("down"))]
    ups = [(name, module) for name, module in children if name.startswith("up")]
    canvas, step, left, right, top = _Canvas(), 50, 120, WIDTH - 120, 34

    def width(channels: int) -> float:
        return 50 + 10 * (channels - 1).bit_length()

    canvas.box(left, top, 140, "image, 3", DATA)
    canvas.box(right, top, 140, "elevation, 1", DATA)
    canvas.text(WIDTH / 2, top + 6, f"{tile} px")
    bottom = top + step * (len(downs) + 1)
    for row, (name, attends) in enumerate(downs, start=1):
        channels, side = shapes[name]
        y, up, module = top + row * step, *ups[len(ups) - row]
        beside = shapes[up][0]
        canvas.arrow((left, y - step + 16), (left, y - 16))
        canvas.arrow((right, y - 16), (right, y - step + 16))
        reach_left, reach_right = width(channels) / 2, width(channels) / 2 + 22
        canvas.arrow((left + reach_left, y), (WIDTH / 2 - 38, y), tip=False)
        canvas.arrow((WIDTH / 2 + 38, y), (right - reach_right, y))
        canvas.box(left, y, 2 * reach_left, f"{channels}", DOWN)
        canvas.box(right, y, 2 * reach_right, f"{channels} + {beside}", UP, dashed=isinstance(module.dropout, nn.Dropout))
        canvas.text(WIDTH / 2, y + 6, f"{side} px")
        if attends:
            canvas.dot(left + reach_left, y - 16)
        if _attends(module.attention):
            canvas.dot(right + reach_right, y - 16)
    channels, side = shapes["bottleneck"]
    canvas.box(WIDTH / 2, bottom, 130, f"{channels}, {side} px", DOWN)
    canvas.arrow((left, bottom - step + 16), (left, bottom), (WIDTH / 2 - 65, bottom))
    canvas.arrow((WIDTH / 2 + 65, bottom), (right, bottom), (right, bottom - step + 16))
    y = bottom + 46
    legend = [
        f"down: convolution {_told(network.initial_down[0])};  up: transposed, {_told(network.final_up[0])}", "across: a skip connection, set beside what came up",
        *(["dashed: with dropout"] if any(isinstance(module.dropout, nn.Dropout) for _, module in ups) else []),
        f"last: {type(network.final_up[-1]).__name__.lower()}, from −1 to 1",
    ]
    for number, line in enumerate(legend):
        canvas.text(40, y + 24 * number, line, anchor="start")
    height = y + 24 * len(legend)
    if any(attends for _, attends in downs):
        canvas.dot(47, height - 6)
        canvas.text(62, height, "attention", anchor="start")
        height += 24
    return canvas.drawn(f"U-Net for tiles of {tile} px", height)


def patchgan(network: PatchGAN, tile: int = 256) -> Diagram:
    """A discriminator: its layers for a tile of this side, px, and how much of the tile one value of each sees."""
    shapes, canvas = _shapes(network, (3, tile, tile), (1, tile, tile)), _Canvas()
    layers = [(name, module) for name, module in network.named_children() if not name.startswith("attention")]
    x, y, step, seen, jump = 200, 34, 66, 1, 1
    canvas.box(x - 85, y, 160, f"image, 3 × {tile}²", DATA)
    canvas.box(x + 85, y, 160, f"height, 1 × {tile}²", DATA)
    canvas.text(450, y + 6, "one value sees")
    for row, (name, module) in enumerate(layers, start=1):
        conv = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
        seen, jump = seen + (conv.kernel_size[0] - 1) * jump, jump * conv.stride[0]
        channels, side = shapes[name]
        top, y = y, y + step
        canvas.arrow((x, top + 16), (x, y - 16))
        canvas.text(x + 12, (top + y) / 2 + 6, _told(conv), anchor="start", size=16)
        last = row == len(layers)
        canvas.box(x, y, 230, f"{side} × {side} logits" if last else f"{channels} × {side}²", LOSS if last else DOWN)
        canvas.text(450, y + 6, f"{seen} × {seen} px")
        attention = getattr(network, name.replace("layer", "attention"), None)
        if attention is not None and attention is not module and _attends(attention):
            canvas.dot(x + 115, y - 16)
    height = y + 44
    if any(_attends(module) for name, module in network.named_children() if name.startswith("attention")):
        canvas.dot(100, height - 6)
        canvas.text(115, height, "attention", anchor="start")
        height += 30
    return canvas.drawn(f"Discriminator for tiles of {tile} px", height)


def drpan(method: DRPAN) -> Diagram:
    """How DRPAN's three networks teach the first of them, and where its gradient is cut when ``config.drpan`` says so."""
    tile, proposal, canvas = method.config.tile, method.proposal, _Canvas()
    scores = round(tile / proposal.stride)
    cut = method.config.drpan == "detached"
    near, middle, far, rows = 90, 280, 460, (34, 124, 270, 376)
    canvas.box(near, rows[0], 130, "image x", DATA)
    canvas.box(middle, rows[0], 130, "generator G", UP)
    canvas.box(far, rows[0], 150, "G(x), predicted", DATA)
    canvas.arrow((near + 65, rows[0]), (middle - 65, rows[0]))
    canvas.arrow((middle + 65, rows[0]), (far - 75, rows[0]))
    canvas.box(far, rows[1], 150, "discriminator D", DOWN)
    canvas.arrow((far, rows[0] + 16), (far, rows[1] - 16))
    canvas.box(middle, rows[1], 140, f"{scores} × {scores} verdicts", DATA)
    canvas.arrow((far - 75, rows[1]), (middle + 70, rows[1]))
    canvas.box(near, rows[1], 160, f"least convincing\n{proposal.window} × {proposal.window} window", DATA, height=52)
    canvas.arrow((middle - 70, rows[1]), (near + 80, rows[1]))
    # The real elevation with a piece of the predicted: where from the left, what from the right.
    turn, color = (rows[1] + rows[2]) / 2, CUT if cut else INK
    canvas.arrow((near, rows[1] + 26), (near, turn), (middle - 50, turn), (middle - 50, rows[2] - 26))
    canvas.text((near + middle - 50) / 2, turn - 8, "where", size=16)
    path = (far + 75, rows[0]), (WIDTH - 8, rows[0]), (WIDTH - 8, turn), (middle + 50, turn), (middle + 50, rows[2] - 26)
    canvas.arrow(*path, color=color, dashed=cut)
    canvas.text((middle + WIDTH + 40) / 2, turn - 8, "what, without its gradient" if cut else "what", color, size=16)
    canvas.box(near - 10, rows[2], 130, "true height y", DATA)
    canvas.box(middle, rows[2], 200, f"y, but {proposal.mask} × {proposal.mask} px\nof it from G(x)", DATA, height=52)
    canvas.box(far + 10, rows[2], 120, "reviser R", DOWN)
    canvas.arrow((near + 55, rows[2]), (middle - 100, rows[2]))
    canvas.arrow((middle + 100, rows[2]), (far - 50, rows[2]))
    losses = ["deceive D", "L1, all px", "deceive R", f"L1, {proposal.crop} × {proposal.crop}"]
    for number, loss in enumerate(losses):
        dashed = cut and number >= 2
        canvas.box(78 + 135 * number, rows[3], 124, loss, LOSS, dashed=dashed)
    canvas.text(WIDTH / 2, rows[3] - 32, "What the generator is told")
    note = "dashed: no gradient; G learns as in Pix2Pix" if cut else "each of the four sends its gradient to G"
    canvas.text(WIDTH / 2, rows[3] + 46, note, color)
    return canvas.drawn(f"DRPAN, {method.config.drpan}, for tiles of {tile} px", rows[3] + 64)


def attention(module: nn.Module) -> Diagram:
    """How SimAM, CBAM or GAM makes its weights, step by step, with the numbers of this block's layers.

    Raises:
        UnknownName: the module is another; the message lists these.
    """
    kind = choose("attention block with a diagram", type(module).__name__, [c.__name__ for c in (SimAM, CBAM, GAM)])
    canvas, y, main, side = _Canvas(), 34, 110, 370
    canvas.box(main, y, 130, "features h", DATA)
    for name, steps in _steps(module).items():
        start = y + 16
        for number, step in enumerate(steps):
            tall = 56 if "\n" in step else 34
            top = start + 14 if number == 0 else y + 24
            if number == 0:
                canvas.arrow((main, top + tall / 2), (side - 125, top + tall / 2))
            else:
                canvas.arrow((side, y), (side, top))
            canvas.box(side, top + tall / 2, 250, step, LOSS if step.endswith("sigmoid") else DOWN, height=tall)
            y = top + tall
        product = y + 46
        canvas.arrow((side, y), (side, product), (main + 65, product))
        canvas.text(side - 12, product - 8, name, anchor="end", size=16)
        canvas.arrow((main, start), (main, product - 16))
        canvas.box(main, product, 130, "weights × h", UP)
        y = product
    return canvas.drawn(kind, y + 34)


def _steps(module: nn.Module) -> dict[str, list[str]]:
    """What each half of an attention block does, by the name of the weights that it makes."""
    if isinstance(module, CBAM):
        first, _, second = module.channel_attention.fc
        conv = module.spatial_attention.conv
        return {
            "weights of channels": [
                "mean and maximum\nover the places",
                f"two layers, {first.in_channels} to\n{first.out_channels} to {second.out_channels} channels", "sum, sigmoid",
            ],
            "weights of places": ["mean and maximum\nover the channels", _conv(conv), "sigmoid"],
        }
    if isinstance(module, GAM):
        first, _, second = module.channel_attention.channel_mlp
        convs = [layer for layer in module.spatial_attention.spatial_attention if isinstance(layer, nn.Conv2d)]
        layers = f"two layers at each place,\n{first.in_features} to {first.out_features} to {second.out_features} channels"
        return {"weights of channels": [layers, "sigmoid"], "weights of places": [*map(_conv, convs), "sigmoid"]}
    told = "square of the distance\nfrom the channel's mean", "divided by 4 times\nits variance, plus ½", "sigmoid"
    return {"weights": list(told)}


def _conv(conv: nn.Conv2d) -> str:
    return f"convolution {conv.kernel_size[0]} × {conv.kernel_size[1]},\n{conv.in_channels} to {conv.out_channels} channels"
