"""Load rasters in QGIS and draw them: run by the system's Python, which has QGIS.

    python3 qgis_draw.py dem.tif …

Prints a JSON object for each raster, and draws it to dem.tif.png.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
from qgis.core import QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings, QgsRasterLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

application = QgsApplication([], False)
application.initQgis()
messages = []
application.messageLog().messageReceived.connect(lambda text, tag, level: messages.append(f"{tag}: {text}"))
for path in sys.argv[1:]:
    layer = QgsRasterLayer(path, "dem")
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(layer.extent())
    settings.setOutputSize(QSize(600, round(600 * layer.extent().height() / layer.extent().width())))
    settings.setBackgroundColor(QColor(255, 255, 255))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(f"{path}.png")
    facts = {
        "valid": layer.isValid(), "bands": layer.bandCount(), "renderer": layer.renderer().type(),
        "crs": layer.crs().authid(), "errors": [error.message for error in job.errors()], "messages": messages,
    }
    print(json.dumps(facts), flush=True)
os._exit(0)  # QGIS 3.22 crashes if layers outlive it, or it them
