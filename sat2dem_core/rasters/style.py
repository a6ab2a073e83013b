"""A style file with which QGIS draws a DEM in colors, from the lowest elevation to the highest."""

import math
from xml.sax.saxutils import quoteattr

COLORS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")  # viridis


def qgis_style(low: float, high: float) -> str:
    """The content of a ``.qml`` file for band 1 of a raster whose elevation goes from ``low`` to ``high`` meters.

    QGIS applies a style that has the raster's name and lies next to it when it opens the raster.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        low = high = 0.0
    items = []
    for number, color in enumerate(COLORS):
        value = low + (high - low) * number / (len(COLORS) - 1)
        label = quoteattr(f"{value:.0f} m")
        items.append(f'          <item value="{value:.3f}" label={label} color="{color}" alpha="255"/>')
    extent = f'minimumValue="{low:.3f}" maximumValue="{high:.3f}"'
    return "\n".join([
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>",
        '<qgis version="3.22" styleCategories="AllStyleCategories">',
        "  <pipe>",
        f'    <rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" '
        f'classificationMin="{low:.3f}" classificationMax="{high:.3f}">',
        "      <rasterTransparency/>",
        "      <rastershader>",
        f'        <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" {extent}>',
        *items,
        "        </colorrampshader>",
        "      </rastershader>",
        "    </rasterrenderer>",
        '    <brightnesscontrast brightness="0" contrast="0"/>',
        '    <huesaturation colorizeOn="0" saturation="0" grayscaleMode="0"/>',
        '    <rasterresampler maxOversampling="2" zoomedInResampler="bilinear"/>',
        "  </pipe>",
        "  <blendMode>0</blendMode>",
        "</qgis>", "",
    ])
