"""Sat2DEM: one satellite image in, a Digital Elevation Model out."""

__version__ = "0.1.0"
